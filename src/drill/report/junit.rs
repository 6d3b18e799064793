//! A report as JUnit XML, which continuous integration shows: each expectation is a test case.

use std::fmt::Write as _;

use super::Report;
use crate::base::markup::escaped;

/// Lost messages and faults that are named in one failure.
const NAMED_MAX: usize = 20;

/// The report as a document.
#[must_use]
pub(crate) fn junit(report: &Report) -> String {
    let mut cases = String::new();
    let mut failures = 0;
    for judged in &report.expectations {
        let found = judged.found.as_deref().unwrap_or("unknown");
        let message = format!("found: {found}");
        failures += usize::from(!judged.held);
        case(&mut cases, report, &judged.expected, (!judged.held).then_some(&message));
    }
    let trouble = match (&report.broken_off, report.interrupted) {
        (Some(why), _) => Some(why.clone()),
        (None, true) => Some("interrupted".to_owned()),
        (None, false) => None,
    };
    failures += usize::from(trouble.is_some());
    case(&mut cases, report, "all steps are done", trouble.as_ref());
    let count = report.expectations.len() + 1;
    suite(&report.scenario, (count, failures, 0), &cases)
}

/// A drill that could not be done.
#[must_use]
pub(crate) fn junit_of_error(scenario: &str, why: &str) -> String {
    let (name, why) = (escaped(scenario), escaped(why));
    let case = format!(
        "    <testcase classname=\"stanby.drill.{name}\" name=\"the drill can be done\">\n      \
         <error message=\"{why}\"/>\n    </testcase>\n"
    );
    suite(scenario, (1, 0, 1), &case)
}

fn case(cases: &mut String, report: &Report, name: &str, failure: Option<&String>) {
    let (class, name) = (escaped(&report.scenario), escaped(name));
    let _ = write!(cases, "    <testcase classname=\"stanby.drill.{class}\" name=\"{name}\"");
    let Some(message) = failure else {
        cases.push_str("/>\n");
        return;
    };
    let named = report.lost.iter().map(|lost| format!("lost: {lost}"));
    let failed = report.failures.iter().map(|failed| format!("failed: {failed}"));
    let named = named.chain(report.faults.iter().cloned()).chain(failed).take(NAMED_MAX);
    let named: Vec<String> = named.map(|line| escaped(&line)).collect();
    let message = escaped(message);
    let _ = write!(
        cases,
        ">\n      <failure message=\"{message}\">{}</failure>\n    </testcase>\n",
        named.join("\n")
    );
}

fn suite(scenario: &str, (count, failures, errors): (usize, usize, usize), cases: &str) -> String {
    let name = escaped(scenario);
    let counts = format!("tests=\"{count}\" failures=\"{failures}\" errors=\"{errors}\"");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  <testsuite \
         name=\"{name}\" {counts}>\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Ending, tests};
    use super::*;

    #[test]
    fn each_expectation_is_a_case() {
        let text = junit(&tests::report(Ending::Whole));
        for part in [
            "<testsuites tests=\"4\" failures=\"2\" errors=\"0\">",
            "name=\"take_over &lt; 60ms\"/>",
            "name=\"acked = 11\">\n      <failure message=\"found: 10\">",
            "<testsuite name=\"a &lt;b&gt; &amp; &#34;c&#34;\"",
            "name=\"all steps are done\"/>",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_drill_that_could_not_be_done_is_an_error() {
        let text = junit_of_error("a", "port <1> \u{1b}[31m");
        assert!(text.contains("errors=\"1\"") && text.contains("port &lt;1&gt; "), "{text}");
        assert!(!text.contains('\u{1b}'), "XML has no such letters");
    }
}
