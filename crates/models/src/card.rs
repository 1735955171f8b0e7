//! Licence in the header of a model card.

use std::io::Read;
use std::path::Path;

/// Maximum number of bytes read of a card.
const MAX_BYTES: u64 = 1 << 18;

/// Returns the licence named in the header of the card `README.md` in `folder`, if any.
///
/// It is the hub's identifier, such as `apache-2.0` or `gemma`; for `license: other`, the value of `license_name`.
pub fn card_license(folder: &Path) -> Option<String> {
    let mut text = Vec::new();
    files::open(&folder.join("README.md")).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    license_in(&String::from_utf8_lossy(&text))
}

/// Returns whether `text` may be the name of a licence: one word without special characters of YAML or Markdown.
pub fn is_license(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
}

fn license_in(card: &str) -> Option<String> {
    let lines = card.trim_start_matches('\u{feff}').lines();
    let mut lines = lines.skip_while(|line| line.trim().is_empty());
    (lines.next()?.trim_end() == "---").then_some(())?;
    let head: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let value = |name: &str| {
        let line = head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let value = line.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        is_license(value).then(|| value.to_owned())
    };
    match value("license")? {
        other if other == "other" => value("license_name").or(Some(other)),
        known => Some(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_read_from_the_header_of_a_card() {
        for (card, license) in [
            ("---\nlicense: apache-2.0\n---\n# Model", Some("apache-2.0")),
            ("\u{feff}---\r\ntags:\r\n- x\r\nlicense: \"gemma\" # terms\r\n---\r\n", Some("gemma")),
            ("---\nlicense: other\nlicense_name: yi-license\n---\n", Some("yi-license")),
            ("---\nlicense: other\n---\n", Some("other")),
            ("---\ntags: [x]\n---\nlicense: mit\n", None),
            ("# Model\nlicense: mit\n", None),
            ("---\nlicense: a [b](c)\n---\n", None),
            ("", None),
        ] {
            assert_eq!(license_in(card).as_deref(), license, "{card}");
        }
    }
}
