//! What the program said: its exit code, its report.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::site::PROGRAM;

/// One verification at its end.
pub struct Said {
    pub code: i32,
    pub report: Value,
    pub text: String,
    pub errors: String,
}

pub fn command(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["archive", "verify", "--config"]).arg(config);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end, for a report in JSON.
pub fn verify(config: &Path, arguments: &[&str]) -> Said {
    let mut command = command(config, &["--output", "json"]);
    said(&command.args(arguments).output().unwrap())
}

pub fn said(output: &Output) -> Said {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    Said {
        code: output.status.code().unwrap(),
        report: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
        errors: String::from_utf8(output.stderr.clone()).unwrap(),
    }
}

impl Said {
    /// How many findings there are of each kind.
    pub fn problems(&self) -> BTreeMap<String, usize> {
        let mut problems = BTreeMap::new();
        for finding in self.report["findings"].as_array().unwrap() {
            let problem = finding["problem"].as_str().unwrap().to_owned();
            *problems.entry(problem).or_default() += 1;
            for field in ["object", "what", "meaning", "action"] {
                assert!(!finding[field].as_str().unwrap().is_empty(), "{finding}");
            }
        }
        problems
    }

    #[track_caller]
    pub fn expect_sound(&self) -> &Value {
        assert_eq!(self.code, 0, "{} {}", self.text, self.errors);
        assert_eq!(self.report["verdict"], "Sound");
        assert!(self.problems().is_empty(), "{}", self.text);
        &self.report
    }

    /// Exactly these, and no other.
    #[track_caller]
    pub fn expect(&self, name: &str, problems: &[(&str, usize)]) {
        let expected: BTreeMap<String, usize> = problems
            .iter()
            .map(|(problem, count)| ((*problem).to_owned(), *count))
            .collect();
        assert_eq!(self.problems(), expected, "{name}: {}", self.text);
        assert_eq!(self.code, 1, "{name}: {}", self.text);
        assert_eq!(self.report["verdict"], "Damaged", "{name}");
    }
}
