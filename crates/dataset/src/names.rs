//! Names as small numbers.

use crate::leak::Hash;

/// Gives each name a number, counted from 0 in the order in which they first come.
///
/// A name takes its own bytes and about 20 more, so that a million of them are some tens of megabytes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// All names, one after another.
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
    /// Numbers + 1 at places told by the names' hashes, 0 where there is none; at most half are taken.
    table: Vec<u32>,
}

impl Names {
    /// Returns the number of `name`, a new one if it has none yet.
    ///
    /// # Panics
    ///
    /// When there are more than `u32::MAX` - 1 names.
    pub fn number(&mut self, name: &str) -> u32 {
        if self.table.len() < 2 * (self.ends.len() + 1) {
            self.grow();
        }
        let place = self.place(name);
        if self.table[place] == 0 {
            self.text.push_str(name);
            self.ends.push(self.text.len());
            self.table[place] = u32::try_from(self.ends.len()).expect("fewer than 2^32 names");
        }
        self.table[place] - 1
    }

    /// Returns the name with a number.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn get(&self, number: u32) -> &str {
        let number = number as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[number]]
    }

    /// Returns how many names there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Where `name` is in the table, or would be.
    fn place(&self, name: &str) -> usize {
        let mask = self.table.len() - 1;
        let hash = Hash::of(name.as_bytes());
        let mut place = (hash ^ (hash >> 32)) as usize & mask;
        while self.table[place] != 0 && self.get(self.table[place] - 1) != name {
            place = (place + 1) & mask;
        }
        place
    }

    fn grow(&mut self) {
        self.table = vec![0; (4 * (self.ends.len() + 1)).next_power_of_two()];
        for number in 0..self.ends.len() as u32 {
            let place = self.place(self.get(number));
            self.table[place] = number + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_name_has_one_number_and_a_number_one_name(names in proptest::collection::vec("[a-cā]{0,3}", 0..200)) {
            let mut found = Names::default();
            let mut plain: Vec<&str> = Vec::new();
            for name in &names {
                let number = plain.iter().position(|known| known == name).unwrap_or(plain.len());
                if number == plain.len() {
                    plain.push(name);
                }
                proptest::prop_assert_eq!(found.number(name), number as u32);
            }
            proptest::prop_assert_eq!(found.len(), plain.len());
            for (number, name) in plain.iter().enumerate() {
                proptest::prop_assert_eq!(found.get(number as u32), *name);
            }
        }
    }
}
