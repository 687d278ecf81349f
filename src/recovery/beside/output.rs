//! What a check printed, as a message has it.

/// Bytes of a failed check's output that are reported.
const LONGEST: usize = 2000;
/// In the place of what must not be told.
const HIDDEN: &str = "***";

/// The end of a text, in whole characters, on one line, with nothing in it that a terminal obeys.
pub fn last(text: &str) -> String {
    let lines = text.split(['\n', '\r']).map(|line| {
        let printed = line.chars().map(|c| if c == '\t' { ' ' } else { c });
        let printed: String = printed.filter(|c| !is_hidden(*c)).collect();
        printed.trim().to_owned()
    });
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    let from = text.len().saturating_sub(LONGEST);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at));
    text[from.unwrap_or_default()..].to_owned()
}

/// Controls, and what turns the direction of a text.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` without `secret`.
pub fn without(text: &str, secret: &str) -> String {
    match secret.is_empty() {
        true => text.to_owned(),
        false => text.replace(secret, HIDDEN),
    }
}

/// The end of what comes line by line.
#[derive(Debug, Default)]
pub struct Tail(String);

impl Tail {
    /// One more line.
    pub fn push(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
        if self.0.len() > 8 * LONGEST {
            self.0 = last(&self.0);
            self.0.push('\n');
        }
    }

    /// The end of all lines.
    pub fn last(&self) -> String {
        last(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_output_is_told() {
        let text = format!("{}ä{}", "x".repeat(5), "y".repeat(LONGEST - 1));
        assert_eq!(last(&text), "y".repeat(LONGEST - 1));
        assert_eq!(last("a\nb\n"), "a; b");
        assert_eq!(last(""), "");
        let mut tail = Tail::default();
        for line in 0..10_000 {
            tail.push(&format!("line {line}"));
        }
        assert!(tail.last().ends_with("; line 9998; line 9999"));
        assert!(tail.last().len() <= LONGEST);
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        assert_eq!(
            last("\u{1b}[31mred\u{7}\u{0}\r\n\n \u{202e}x\u{9b}y\ta\n"),
            "[31mred; xy a"
        );
    }

    #[test]
    fn a_secret_is_left_out() {
        assert_eq!(without("PGPASSWORD=abc abc", "abc"), "PGPASSWORD=*** ***");
        assert_eq!(without("abc", ""), "abc");
    }
}
