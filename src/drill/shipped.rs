//! The scenarios that the program brings along.

/// A scenario that ships.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shipped {
    /// What it is called by.
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! shipped {
    ($($name:literal,)*) => {
        pub(crate) const SHIPPED: &[Shipped] = &[$(Shipped {
            name: $name,
            text: include_str!(concat!("scenarios/", $name, ".toml")),
        },)*];
    };
}

shipped! {
    "kill-the-active",
    "term-the-active",
    "step-down",
    "hung-active",
    "kill-the-standby",
    "kill-all",
    "cascade",
    "rolling-restart",
    "heavy-load",
    "partition",
    "full-disk",
    "database-away",
}

/// What `--pair` does.
pub(crate) const PAIR: &str = "kill-the-active";

/// The scenario of that name.
#[must_use]
pub(crate) fn find(name: &str) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|shipped| shipped.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::scenario;
    use super::*;

    #[test]
    fn each_shipped_scenario_is_one_and_says_what_it_is_for() {
        for shipped in SHIPPED {
            let scenario = scenario::parse(shipped.text).expect(shipped.name);
            assert_eq!(scenario.name, shipped.name);
            assert!(20 < scenario.about.len() && !scenario.expect.is_empty(), "{}", shipped.name);
            assert!(find(shipped.name).is_some());
        }
        assert!(find(PAIR).is_some());
    }
}
