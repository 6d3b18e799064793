//! A report as a page: one file that asks nobody for anything, with a plot of the load, the members
//! and what was done to them, for light and dark screens.

use std::fmt::Write as _;

use super::{Happened, Report, Timeline};
use crate::base::markup::escaped;

/// What the page looks like.
const STYLE: &str = include_str!("report.css");

/// Width of what is plotted, and where it begins.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 96.0;

/// Height of a plot, and of the lane of a member.
const HEIGHT: f64 = 120.0;
const LANE: f64 = 18.0;

/// Room between two parts of the picture, and above the first for what was done.
const GAP: f64 = 34.0;
const TOP: f64 = 42.0;

/// Lost messages and faults that are shown.
const NAMED_MAX: usize = 200;

/// The report as a page.
#[must_use]
pub(crate) fn page(report: &Report) -> String {
    let mut body = String::new();
    head(&mut body, report);
    expectations(&mut body, report);
    plot(&mut body, report);
    events(&mut body, &report.events);
    numbers(&mut body, report);
    named(&mut body, "Lost messages", &report.lost);
    named(&mut body, "Publishes that failed", &report.failures);
    named(&mut body, "What else went wrong", &report.faults);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta \
         http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>{} – \
         stanby drill</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         </body>\n</html>\n",
        escaped(&report.scenario)
    )
}

fn head(body: &mut String, report: &Report) {
    let class = if report.held { "good" } else { "bad" };
    let store = report.store.map(|store| format!(" over {store}")).unwrap_or_default();
    let members = if report.members == 1 { "member" } else { "members" };
    let _ = write!(
        body,
        "<h1>{}</h1>\n<p>{}</p>\n<p class=\"verdict {class}\">{}</p>\n<p class=\"quiet\">{} \
         {members}{store}: {}</p>\n",
        escaped(&report.scenario),
        escaped(&report.about),
        escaped(&report.verdict()),
        report.members,
        escaped(&report.server),
    );
}

fn expectations(body: &mut String, report: &Report) {
    if report.expectations.is_empty() {
        return;
    }
    body.push_str("<table>\n<tr><th>Expected</th><th>Found</th><th></th></tr>\n");
    for judged in &report.expectations {
        let (class, word) = if judged.held { ("good", "held") } else { ("bad", "failed") };
        let found = judged.found.as_deref().unwrap_or("unknown");
        let _ = writeln!(
            body,
            "<tr><td><code>{}</code></td><td class=\"number\">{}</td><td class=\"{class}\">{word}\
             </td></tr>",
            escaped(&judged.expected),
            escaped(found),
        );
    }
    body.push_str("</table>\n");
}

/// The whole picture: acks, the longest ack, deliveries, members; and what was done, through all.
fn plot(body: &mut String, report: &Report) {
    let Timeline { step_ms, acks, deliveries, ack_ms } = &report.timeline;
    let span = millis_of(*step_ms) * count_of(acks.len());
    if acks.is_empty() || span <= 0.0 {
        return;
    }
    let per_second = |counts: &[u64]| {
        let rate = |count: &u64| millis_of(*count) * 1_000.0 / millis_of(*step_ms);
        counts.iter().map(rate).collect::<Vec<f64>>()
    };
    let curves = [
        ("acks a second", "acks", per_second(acks)),
        ("longest ack, ms", "took", ack_ms.clone()),
        ("deliveries a second", "deliveries", per_second(deliveries)),
    ];
    let lanes_top = TOP + (HEIGHT + GAP) * count_of(curves.len());
    let bottom = lanes_top + (LANE + 6.0) * count_of(report.roles.len());
    let all = bottom + 40.0;
    let _ = writeln!(
        body,
        "<h2>Timeline</h2>\n<div class=\"wide\"><svg viewBox=\"0 0 {} {all}\" role=\"img\" \
         aria-label=\"Acks, their time, deliveries and members over time\">",
        LEFT + WIDTH + 20.0
    );
    let top_of = |index| TOP + (HEIGHT + GAP) * count_of(index);
    for (index, (_, class, values)) in curves.iter().enumerate() {
        curve(body, top_of(index), class, values);
    }
    for (index, stretches) in report.roles.iter().enumerate() {
        let y = lanes_top + (LANE + 6.0) * count_of(index);
        let _ = writeln!(
            body,
            "<text class=\"label\" x=\"{}\" y=\"{}\">member {}</text>",
            LEFT - 8.0,
            y + LANE - 5.0,
            index + 1
        );
        for stretch in stretches {
            let (x, end) = (x_of(stretch.from_ms, span), x_of(stretch.to_ms, span));
            let role = stretch.role;
            let _ = writeln!(
                body,
                "<rect class=\"{role}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
                 height=\"{LANE}\"><title>member {}: {role} from {:.0} to {:.0} ms</title></rect>",
                (end - x).max(0.5),
                index + 1,
                stretch.from_ms,
                stretch.to_ms
            );
        }
    }
    marks(body, &report.events, span, bottom);
    // In front of the lines through all plots.
    for (index, (title, ..)) in curves.iter().enumerate() {
        let y = top_of(index) - 6.0;
        let _ = writeln!(body, "<text class=\"title\" x=\"{LEFT}\" y=\"{y:.1}\">{title}</text>");
    }
    axis(body, span, bottom);
    body.push_str("</svg></div>\n<p class=\"legend\">");
    for (role, said) in [
        ("active", "active"),
        ("ready", "ready to take over"),
        ("unready", "not ready"),
        ("hangs", "does not answer"),
        ("gone", "not there"),
    ] {
        let _ = write!(body, "<span class=\"swatch {role}\"></span>{said} ");
    }
    body.push_str("</p>\n");
}

/// One area, with the highest value named, and each power of ten below it.
fn curve(body: &mut String, top: f64, class: &str, values: &[f64]) {
    let highest = values.iter().copied().fold(0.0_f64, f64::max);
    let width = WIDTH / count_of(values.len());
    let base = top + HEIGHT;
    let mut path = format!("M{LEFT:.1} {base:.1}");
    for (index, value) in values.iter().enumerate() {
        let (x, y) = (LEFT + width * count_of(index), base - height_of(*value, highest));
        let _ = write!(path, "V{y:.1}H{:.1}", x + width);
    }
    let _ = write!(path, "V{base:.1}Z");
    let powers = (0..9).map(|power| 10.0_f64.powi(power));
    // Close to the lowest number and to the highest one there is no room for another.
    let is_between = |value: &f64| (12.0..HEIGHT - 18.0).contains(&height_of(*value, highest));
    let mut lines: Vec<f64> = powers.filter(is_between).collect();
    lines.push(0.0);
    lines.extend((0.0 < highest).then_some(highest));
    for value in lines {
        let y = base - height_of(value, highest);
        let _ = writeln!(
            body,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n<line class=\"grid\" \
             x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>",
            LEFT - 8.0,
            y + 3.0,
            rounded(value),
            LEFT + WIDTH,
        );
    }
    let _ = writeln!(body, "<path class=\"{class}\" d=\"{path}\"/>");
}

/// How high a value is drawn: by its logarithm, so that what comes at once after a pause does not
/// make flat what comes all the time.
fn height_of(value: f64, highest: f64) -> f64 {
    match 0.0 < highest {
        true => value.ln_1p() / highest.ln_1p() * (HEIGHT - 4.0),
        false => 0.0,
    }
}

/// What was done, as lines through all plots; names where there is room for them.
fn marks(body: &mut String, events: &[Happened], span: f64, bottom: f64) {
    // Where the last name of each of two rows ends.
    let mut ends = [f64::MIN; 2];
    for event in events {
        let x = x_of(event.at_ms, span);
        let class = if event.disturbs { "mark hard" } else { "mark" };
        let what = escaped(&event.what);
        let _ = writeln!(
            body,
            "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\">\
             <title>{what} at {:.0} ms</title></line>",
            TOP - 16.0,
            event.at_ms
        );
        let width = 6.2 * count_of(event.what.chars().count());
        let from = x.min(LEFT + WIDTH - width);
        if let Some(row) = ends.iter().position(|end| *end + 6.0 < from) {
            ends[row] = from + width;
            let y = 12.0 + 12.0 * count_of(row);
            let _ = writeln!(body, "<text class=\"name\" x=\"{from:.1}\" y=\"{y}\">{what}</text>");
        }
    }
}

/// Seconds below all.
fn axis(body: &mut String, span: f64, bottom: f64) {
    let step = [100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0]
        .into_iter()
        .find(|step| span / step <= 12.0)
        .unwrap_or(span / 10.0);
    let mut at = 0.0;
    while at <= span {
        let x = x_of(at, span);
        let _ = writeln!(
            body,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{} s</text>",
            bottom + 18.0,
            rounded(at / 1_000.0)
        );
        at += step;
    }
}

fn events(body: &mut String, events: &[Happened]) {
    if events.is_empty() {
        return;
    }
    body.push_str(
        "<h2>What was done</h2>\n<table>\n<tr><th>At</th><th>Step</th><th>First ack after it</th>\
         </tr>\n",
    );
    for event in events {
        let first = match event.first_ack_ms {
            Some(millis) => format!("{millis:.1} ms"),
            None if event.disturbs => "never".to_owned(),
            None => String::new(),
        };
        let _ = writeln!(
            body,
            "<tr><td class=\"number\">{:.2} s</td><td>{}</td><td class=\"number\">{first}</td></tr>",
            event.at_ms / 1_000.0,
            escaped(&event.what),
        );
    }
    body.push_str("</table>\n");
}

fn numbers(body: &mut String, report: &Report) {
    body.push_str(
        "<h2>What was found</h2>\n<table>\n<tr><th>Name</th><th>Found</th><th></th></tr>\n",
    );
    for (quantity, name, meaning) in crate::drill::expectation::QUANTITIES {
        if !report.found.contains_key(name) {
            continue;
        }
        let _ = writeln!(
            body,
            "<tr><td><code>{name}</code></td><td class=\"number\">{}</td><td \
             class=\"quiet\">{meaning}</td></tr>",
            report.shown(quantity)
        );
    }
    body.push_str("</table>\n");
}

fn named(body: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(body, "<h2>{title}</h2>\n<ul>");
    for line in lines.iter().take(NAMED_MAX) {
        let _ = writeln!(body, "<li>{}</li>", escaped(line));
    }
    if NAMED_MAX < lines.len() {
        let left = lines.len() - NAMED_MAX;
        let _ = writeln!(body, "<li>… and {left} more that --json names</li>");
    }
    body.push_str("</ul>\n");
}

fn x_of(at_ms: f64, span: f64) -> f64 {
    LEFT + (at_ms / span).clamp(0.0, 1.0) * WIDTH
}

fn rounded(value: f64) -> String {
    if value < 10.0 && value.fract() > 0.05 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[expect(clippy::cast_precision_loss, reason = "nobody sees the last digits in a picture")]
fn millis_of(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "nobody sees the last digits in a picture")]
fn count_of(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::{Ending, tests};
    use super::*;

    #[test]
    fn a_page_shows_all_and_asks_nobody() {
        let text = page(&tests::report(Ending::Whole));
        for part in [
            "<title>a &lt;b&gt; &amp; &#34;c&#34; –",
            "default-src 'none'",
            "prefers-color-scheme: dark",
            "<code>take_over &lt; 60ms</code>",
            "FAILED: acked = 11, lost = 0",
            "kill -9 active at 450 ms",
            "member 1: gone from 450 to 1000 ms",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        for word in ["http://", "https://", "<script", "src=", "url(", "@import"] {
            assert!(!text.contains(word), "{word}");
        }
    }

    /// Goal: what comes all the time is seen beside what comes at once after a pause.
    #[test]
    fn a_burst_makes_nothing_flat() {
        assert!(HEIGHT / 3.0 < height_of(200.0, 35_000.0));
        assert!((height_of(35_000.0, 35_000.0) - (HEIGHT - 4.0)).abs() < 0.001);
        assert!(height_of(0.0, 35_000.0).abs() + height_of(0.0, 0.0).abs() < 0.001);
    }

    #[test]
    fn a_drill_that_was_over_at_once_is_a_page_too() {
        let mut report = tests::report(Ending::Interrupted);
        report.timeline = Timeline::default();
        report.events.clear();
        assert!(page(&report).contains("interrupted: this is what was until then"));
    }
}
