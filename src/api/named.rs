//! Names in our specs that are other objects': they become parts of requests' paths, and no character in one may end a part.

use serde_json::{Value, json};

/// The longest name of an object (DNS-1123 subdomain).
const LONGEST: usize = 253;

/// What an object may be called, so far as it matters in a path: the API server knows the rest.
const PATTERN: &str = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$";

/// The rule of a field that is an object's name. The field says itself how long it may be, which the rule's cost is counted by.
pub fn rule(field: &str) -> Value {
    json!([{
        "rule": format!("self.matches('{PATTERN}')"),
        "message": format!("{field} must begin and end with a letter or digit, and hold only a-z, 0-9, . and -"),
    }])
}

/// Whether an object may be called so: what was stored before the rule, or is in a status, did not pass it.
pub fn is_name(name: &str) -> bool {
    let at_ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let within = |c: char| at_ends(c) || c == '.' || c == '-';
    name.len() <= LONGEST
        && name.starts_with(at_ends)
        && name.ends_with(at_ends)
        && name.chars().all(within)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, string::string_regex};

    use super::*;

    proptest! {
        #[test]
        fn what_the_rule_lets_in_is_a_name(
            name in string_regex(PATTERN.trim_start_matches('^').trim_end_matches('$')).unwrap(),
        ) {
            prop_assert!(is_name(&name), "{name}");
        }
    }

    #[test]
    fn what_would_be_more_than_a_name_in_a_path_is_none() {
        for name in ["a", "0", "orders", "orders.v2", "data-orders-0"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "", ".", "..", "/", "a/b", "../a", "a/..", "a?", "a?b=c", "a#b", "a%2fb", "%2e%2e",
            "a;b", "a\\b", "A", "oRders", "a b", " a", "a\n", "a_b", "-a", "a-", ".a", "a.", "ä",
            "a:b", "*",
        ] {
            assert!(!is_name(name), "{name:?}");
        }
        assert!(is_name(&"a".repeat(LONGEST)));
        assert!(!is_name(&"a".repeat(LONGEST + 1)));
    }
}
