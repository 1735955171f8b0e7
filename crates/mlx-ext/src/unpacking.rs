//! Whether a model keeps unpacked copies of its packed weights.

use serde::{Deserialize, Serialize};

/// What to do with packed weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpack {
    /// Unpack for each product if the backend has kernels for it, else whatever is faster there.
    #[default]
    Auto,
    /// Keep an unpacked copy of every packed weight.
    Resident,
    /// Keep only the packed weights.
    Transient,
}

/// Treatment of packed weights on a backend, with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacking {
    /// Whether every packed weight has an unpacked copy.
    pub resident: bool,
    /// Why, for people.
    pub reason: &'static str,
}

impl Unpack {
    /// Every name, as users write it.
    pub const NAMES: [&'static str; 3] = ["auto", "resident", "transient"];

    /// Returns the choice called `name`, or [`Unpack::Auto`] if there is none of that name.
    pub fn from_name(name: &str) -> Self {
        [Self::Resident, Self::Transient].into_iter().find(|unpack| unpack.name() == name).unwrap_or_default()
    }

    /// Returns the name, as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Resident => "resident",
            Self::Transient => "transient",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in Unpack::NAMES {
            assert_eq!(Unpack::from_name(name).name(), name);
        }
    }
}
