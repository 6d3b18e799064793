//! Draws the view.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Sparkline, Table, TableState};

use super::view::View;
use crate::base::time::Instant;
use crate::cli::connection::printable;

/// How old what is shown may be before that is said.
const OLD_SECONDS: u64 = 5;
/// Members of a group that are shown.
const MEMBERS_MAX: usize = 5;
/// Cells between two columns.
const SPACING: u16 = 2;

/// Draws it as it is at `now`.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, now: Instant) {
    let members = view.members();
    let member_count = u16::try_from(members.len().min(MEMBERS_MAX)).unwrap_or(0);
    let [head, group, plot, rest, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(member_count),
        Constraint::Length(3),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let lines = |texts: &[String]| -> Vec<Line<'static>> {
        texts.iter().map(|text| Line::from(printable(text))).collect()
    };
    frame.render_widget(Paragraph::new(lines(&view.head())), head);
    frame.render_widget(Paragraph::new(lines(&members)), group);
    // The newest at the right: as many as fit.
    let history: Vec<u64> = view.history.iter().copied().collect();
    let from = history.len().saturating_sub(usize::from(plot.width));
    let sparkline = Sparkline::default().data(&history[from..]);
    frame.render_widget(sparkline.style(coloured(view, Color::Cyan)), plot);
    match &view.chosen {
        None => draw_table(frame, (view, rest), &view.channel_table(), Some(view.selected)),
        Some(_) => draw_table(frame, (view, rest), &view.subscription_table(), None),
    }
    let (text, style) = foot_line(view, now);
    frame.render_widget(Paragraph::new(printable(&text)).style(style), foot);
}

fn coloured(view: &View, colour: Color) -> Style {
    if view.has_colours { Style::new().fg(colour) } else { Style::new() }
}

/// Keys, or what is wrong.
fn foot_line(view: &View, now: Instant) -> (String, Style) {
    let age = view.sample().map_or(0, |sample| now.since(sample.at).as_secs());
    if let Some(why) = &view.trouble {
        let text = format!("{why} (shown: {age} s ago)");
        return (text, coloured(view, Color::Red).add_modifier(Modifier::BOLD));
    }
    if view.is_finding {
        return (format!("/{}_", view.filter), Style::new());
    }
    let keys = match &view.chosen {
        Some(channel) => format!("channel {channel}   Esc back  q end"),
        None => format!(
            "q end  ↑↓ move  Enter subscriptions  / find{}  s order: {}  space stop",
            if view.filter.is_empty() { String::new() } else { format!(": {}", view.filter) },
            view.sort.name()
        ),
    };
    let more = match view.left_out() {
        0 => String::new(),
        count => format!("  {count} more channels were not asked for (--channels)"),
    };
    let state = match (view.is_stopped, OLD_SECONDS < age) {
        (true, _) => "  STOPPED".to_owned(),
        (false, true) => format!("  no answer for {age} s"),
        (false, false) => String::new(),
    };
    (keys + &more + &state, Style::new().add_modifier(Modifier::DIM))
}

/// A table whose first column takes what the others leave.
fn draw_table(
    frame: &mut Frame<'_>,
    (view, area): (&View, Rect),
    texts: &[Vec<String>],
    selected: Option<usize>,
) {
    let Some((titles, rows)) = texts.split_first() else { return };
    // Of many rows only those around the selected one are drawn.
    let height = usize::from(area.height.saturating_sub(1));
    let first = selected.map_or(0, |selected| selected.saturating_sub(height.saturating_sub(1)));
    let shown = rows.get(first..).unwrap_or_default();
    let shown = &shown[..shown.len().min(height)];
    let width = |column: usize| {
        let cells = shown.iter().chain([titles]).filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        u16::try_from(longest).unwrap_or(u16::MAX)
    };
    let widths = (0..titles.len()).map(|column| match column {
        0 => Constraint::Min(width(0).min(20)),
        _ => Constraint::Length(width(column)),
    });
    let cells =
        |row: &Vec<String>| Row::new(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    let table = Table::new(shown.iter().map(cells), widths)
        .header(cells(titles).style(coloured(view, Color::Yellow).add_modifier(Modifier::BOLD)))
        .column_spacing(SPACING)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(selected.map(|selected| selected - first));
    frame.render_stateful_widget(table, area, &mut state);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::Sort;
    use super::super::view::tests::sample;
    use super::*;

    fn drawn(view: &View, (width, height): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let now = Instant::default() + Duration::from_secs(20);
        terminal.draw(|frame| draw(frame, view, now)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_selected_channel_is_in_sight_among_many() {
        let names: Vec<String> = (0..1_000).map(|number| format!("channel.{number:04}")).collect();
        let channels: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 7)).collect();
        let mut view = View::new("http://here:8222".to_owned(), Sort::Name);
        view.take(Ok(sample(19, &channels)));
        view.selected = 777;
        let screen = drawn(&view, (100, 24));
        assert!(screen.contains("channel.0777") && !screen.contains("channel.0778"), "{screen}");
        assert!(screen.contains("CHANNEL") && screen.contains("http://here:8222"), "{screen}");
        assert!(screen.contains("q end"), "{screen}");
    }

    #[test]
    fn what_is_wrong_and_old_is_said() {
        let mut view = View::new("u".to_owned(), Sort::Name);
        view.take(Ok(sample(1, &[("a\u{1b}[31m", 1)])));
        assert!(drawn(&view, (120, 24)).contains("no answer for 19 s"));
        view.take(Err("connection refused".to_owned()));
        let screen = drawn(&view, (120, 24));
        assert!(screen.contains("connection refused (shown: 19 s ago)"), "{screen}");
        assert!(!screen.contains('\u{1b}'), "{screen}");
        view.chosen = Some("gone".to_owned());
        assert!(drawn(&view, (120, 24)).contains("CLIENT"));
    }

    #[test]
    fn any_size_of_a_terminal_is_drawn() {
        let mut view = View::new("u".to_owned(), Sort::Name);
        view.take(Ok(sample(1, &[("a", 1), ("b", 2)])));
        view.selected = 1;
        for size in [(1, 1), (1, 50), (3, 2), (20, 5), (400, 10)] {
            assert!(!drawn(&view, size).is_empty());
        }
    }
}
