//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::view::View;

/// Rows that a page key moves by.
const PAGE: usize = 20;
/// Letters of a part of a name.
const FILTER_LEN_MAX: usize = 255;

/// Whether it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    GoOn,
    End,
}

/// A key was pressed.
#[allow(clippy::wildcard_enum_match_arm, reason = "most keys do nothing")]
pub(super) fn press(view: &mut View, key: KeyEvent) -> Reaction {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Reaction::End;
    }
    if view.is_finding {
        find(view, key.code);
        return Reaction::GoOn;
    }
    let last = view.rows().len().saturating_sub(1);
    match key.code {
        KeyCode::Char('q') => return Reaction::End,
        KeyCode::Esc if view.chosen.is_some() => view.chosen = None,
        KeyCode::Esc => view.filter.clear(),
        KeyCode::Up | KeyCode::Char('k') => view.selected = view.selected.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => view.selected = (view.selected + 1).min(last),
        KeyCode::PageUp => view.selected = view.selected.saturating_sub(PAGE),
        KeyCode::PageDown => view.selected = (view.selected + PAGE).min(last),
        KeyCode::Home => view.selected = 0,
        KeyCode::End => view.selected = last,
        KeyCode::Enter if view.chosen.is_none() => {
            view.chosen = view.rows().get(view.selected).map(|row| row.channel.to_owned());
        }
        KeyCode::Char('/') => view.is_finding = true,
        KeyCode::Char('s') => view.sort = view.sort.next(),
        KeyCode::Char(' ') => view.is_stopped = !view.is_stopped,
        _ => (),
    }
    Reaction::GoOn
}

/// A key while a part of a name is written.
#[allow(clippy::wildcard_enum_match_arm, reason = "most keys do nothing")]
fn find(view: &mut View, code: KeyCode) {
    match code {
        KeyCode::Enter => view.is_finding = false,
        KeyCode::Esc => {
            view.filter.clear();
            view.is_finding = false;
        }
        KeyCode::Backspace => drop(view.filter.pop()),
        KeyCode::Char(letter) if view.filter.len() < FILTER_LEN_MAX => view.filter.push(letter),
        _ => (),
    }
    view.selected = 0;
}

#[cfg(test)]
mod tests {
    use super::super::view::Sort;
    use super::super::view::tests::sample;
    use super::*;

    fn typed(view: &mut View, keys: &[KeyCode]) -> Reaction {
        let mut reaction = Reaction::GoOn;
        for code in keys {
            reaction = press(view, KeyEvent::new(*code, KeyModifiers::NONE));
        }
        reaction
    }

    fn view() -> View {
        let mut view = View::new("u".to_owned(), Sort::Name);
        view.take(Ok(sample(1, &[("a", 1), ("b", 2), ("bc", 3)])));
        view
    }

    #[test]
    fn keys_move_choose_find_and_end() {
        let mut view = view();
        use KeyCode::{Backspace, Char, Down, End, Enter, Esc, Home, PageDown, Up};
        let _ = typed(&mut view, &[Up, Down, Down, Down, Down]);
        assert_eq!(view.selected, 2);
        let _ = typed(&mut view, &[Home, PageDown, End, Up, Enter]);
        assert_eq!(view.chosen.as_deref(), Some("b"));
        let _ =
            typed(&mut view, &[Esc, Char('/'), Char('q'), Backspace, Char('b'), Char('c'), Enter]);
        assert_eq!((view.filter.as_str(), view.rows().len(), view.selected), ("bc", 1, 0));
        let _ = typed(&mut view, &[Esc, Char('s'), Char(' ')]);
        assert_eq!((view.filter.as_str(), view.sort, view.is_stopped), ("", Sort::Messages, true));
        assert_eq!(typed(&mut view, &[Char('q')]), Reaction::End);
        let end = KeyEvent::new(Char('c'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut view, end), Reaction::End);
    }

    #[test]
    fn nothing_is_chosen_where_nothing_is() {
        let mut view = View::new("u".to_owned(), Sort::Name);
        let _ = typed(&mut view, &[KeyCode::Enter, KeyCode::Down, KeyCode::PageDown, KeyCode::End]);
        assert_eq!((view.chosen, view.selected), (None, 0));
    }
}
