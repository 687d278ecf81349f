//! Words that CEL reserves. The API server knows a field of such a name by `__word__` alone, and takes no CRD that says otherwise;
//! the evaluator of these tests does not mind.

use std::{fs, path::Path};

use highwater::api::crds;
use serde_json::Value;

/// Operators and literals, where they do not stand for a field.
const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];

/// The language definition's (github.com/google/cel-spec, "Syntax").
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Identifiers, and the characters between them; each text and number as one `"`.
fn tokens(rule: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = rule;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' | '`' => text(rest, false),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        let prefix = token.to_ascii_lowercase();
        if ["r", "b", "rb", "br"].contains(&prefix.as_str()) && rest.starts_with(['\'', '"']) {
            rest = &rest[text(rest, prefix.contains('r'))..];
            found.push("\"".to_owned());
        } else if first.is_ascii_digit() || ['\'', '"', '`'].contains(&first) {
            found.push("\"".to_owned());
        } else if !first.is_whitespace() && !token.starts_with("//") {
            found.push(token.to_owned());
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// How long the text is that `rest` begins with. In a raw one a backslash is a character like others.
fn text(rest: &str, is_raw: bool) -> usize {
    let one = &rest[..1];
    let three = one.repeat(3);
    let quote = match rest.starts_with(&three) {
        true => three.as_str(),
        false => one,
    };
    let mut at = quote.len();
    while let Some(next) = rest[at..].chars().next() {
        if rest[at..].starts_with(quote) {
            return at + quote.len();
        }
        at += next.len_utf8();
        if next == '\\' && !is_raw {
            at += rest[at..].chars().next().map_or(0, char::len_utf8);
        }
    }
    rest.len()
}

/// The words of a rule that are reserved and stand for a field or variable. The fields of `request` are no schema's: a policy
/// knows them by their own names.
fn reserved(rule: &str) -> Vec<String> {
    let tokens = tokens(rule);
    let is_wrong = |at: &usize| {
        let word = tokens[*at].as_str();
        let before = tokens[..*at].iter().rev().map(String::as_str);
        let mut before = before.skip_while(|token| *token == "?");
        let is_field = before.next() == Some(".");
        let of_request = is_field && before.next() == Some("request") && before.next() != Some(".");
        !of_request && (RESERVED.contains(&word) || (is_field && KEYWORDS.contains(&word)))
    };
    let wrong = (0..tokens.len()).filter(is_wrong);
    wrong.map(|at| tokens[at].clone()).collect()
}

/// The texts of these fields, however deep, that are rules.
fn rules(value: &Value, fields: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                match inner {
                    Value::String(rule) if fields.contains(&name.as_str()) => {
                        found.push(rule.clone());
                    }
                    _ => rules(inner, fields, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| rules(inner, fields, found)),
        _ => {}
    }
}

/// The rules under every `x-kubernetes-validations`.
fn of_schema(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                match name.as_str() {
                    "x-kubernetes-validations" => {
                        rules(inner, &["rule", "messageExpression"], found)
                    }
                    _ => of_schema(inner, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| of_schema(inner, found)),
        _ => {}
    }
}

/// The expressions of every admission policy below `folder`.
fn of_policies(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            of_policies(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("kind: ValidatingAdmissionPolicy") {
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            for document in &documents {
                rules(document, &["expression", "messageExpression"], found);
            }
        }
    }
}

#[test]
fn no_rule_has_a_reserved_word_for_a_field() {
    let (mut schemas, mut policies) = (Vec::new(), Vec::new());
    for crd in crds::all() {
        of_schema(&serde_json::to_value(&crd).unwrap(), &mut schemas);
    }
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    of_policies(&manifests, &mut policies);
    assert!(schemas.len() > 40, "{} rules only", schemas.len());
    assert!(policies.len() > 40, "{} expressions only", policies.len());
    for rule in schemas.iter().chain(&policies) {
        let words = reserved(rule);
        assert!(words.is_empty(), "{words:?} in {rule}");
    }
}

#[test]
fn a_reserved_word_is_told_from_a_text() {
    for rule in [
        "self.namespace == 'shop'",
        "has(self.namespace)",
        "!has(self.source.archive.grantedBy) || self.source.archive.grantedBy . namespace != ''",
        "self.?namespace.hasValue()",
        "self.all(namespace, true)",
        "'it\\'s ' + self.namespace",
        "r'\\' + self.namespace",
        "\"\"\"a \"text\" \"\"\" + self.namespace",
        "object.metadata.namespace == request.name",
        "object.request.namespace == ''",
        "variables.namespace",
        "'// ' + self.namespace",
        "{namespace: 1}",
    ] {
        assert_eq!(reserved(rule), ["namespace"], "{rule}");
    }
    assert_eq!(
        reserved("self.for in self.package || self.in"),
        ["for", "package", "in"]
    );
    for rule in [
        "self.__namespace__ == 'shop'",
        "has(self.__namespace__)",
        "self['namespace'] == \"namespace\"",
        "'self.namespace' in ['namespace', r'\\', 'for']",
        "'it\\'s self.namespace' == ''",
        "\"it's\" == 'self.namespace'",
        "'''a 'text', self.namespace''' == ''",
        "self.namespaces.all(n, n in self.format || n == b'while')",
        "request.namespace + ':' + object.metadata.name",
        "self.size() == 1e5 // self.namespace",
        "true in [false, null == null]",
    ] {
        assert_eq!(reserved(rule), [""; 0], "{rule}");
    }
}
