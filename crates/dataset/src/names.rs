//! Names as small numbers.

use crate::hash::Hash;

/// Numbers names from 0, in the order of their first occurrence.
///
/// Each name takes its own bytes and about 20 more: a million names take tens of megabytes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// All names, one after another.
    text: String,
    /// End of each name in `text`.
    ends: Vec<usize>,
    /// Open-addressing table: number + 1 per slot, 0 if empty; load factor at most 1/2.
    table: Vec<u32>,
}

impl Names {
    /// Returns the number of `name`, which gets the next free number if it is new.
    ///
    /// # Panics
    ///
    /// Panics at more than `u32::MAX` - 1 names.
    pub fn number(&mut self, name: &str) -> u32 {
        if self.table.len() < 2 * (self.ends.len() + 1) {
            self.grow();
        }
        let slot = self.slot(name);
        if self.table[slot] == 0 {
            self.text.push_str(name);
            self.ends.push(self.text.len());
            self.table[slot] = u32::try_from(self.ends.len()).expect("fewer than 2^32 names");
        }
        self.table[slot] - 1
    }

    /// Returns the name with the given number.
    ///
    /// # Panics
    ///
    /// Panics when no name has that number.
    pub fn get(&self, number: u32) -> &str {
        let number = number as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[number]]
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no names.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the slot that holds `name`, or the empty slot for it.
    fn slot(&self, name: &str) -> usize {
        let mask = self.table.len() - 1;
        let hash = Hash::of(name.as_bytes());
        let mut slot = (hash ^ (hash >> 32)) as usize & mask;
        while self.table[slot] != 0 && self.get(self.table[slot] - 1) != name {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        self.table = vec![0; (4 * (self.ends.len() + 1)).next_power_of_two()];
        for number in 0..self.ends.len() as u32 {
            let slot = self.slot(self.get(number));
            self.table[slot] = number + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_name_has_one_number_and_a_number_one_name(names in proptest::collection::vec("[a-cā]{0,3}", 0..200)) {
            let mut numbered = Names::default();
            let mut expected: Vec<&str> = Vec::new();
            for name in &names {
                let number = expected.iter().position(|known| known == name).unwrap_or(expected.len());
                if number == expected.len() {
                    expected.push(name);
                }
                proptest::prop_assert_eq!(numbered.number(name), number as u32);
            }
            proptest::prop_assert_eq!(numbered.len(), expected.len());
            for (number, name) in expected.iter().enumerate() {
                proptest::prop_assert_eq!(numbered.get(number as u32), *name);
            }
        }
    }
}
