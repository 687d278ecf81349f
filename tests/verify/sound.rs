//! Archives with nothing wrong, what is said of them, and what is asked wrongly.

use std::{
    fs,
    process::{Command, Stdio},
    time::SystemTime,
};

use crate::{
    fixture::{Copy, files, fixture},
    said::{command, said, verify},
    site::PROGRAM,
};

/// Everything in a folder, with what would change if somebody wrote.
fn state(copy: &Copy) -> Vec<(String, u64, SystemTime)> {
    let of = |path: std::path::PathBuf| {
        let metadata = fs::metadata(&path).unwrap();
        let name = path.to_string_lossy().into_owned();
        (name, metadata.len(), metadata.modified().unwrap())
    };
    files(&copy.directory).into_iter().map(of).collect()
}

#[test]
fn two_timelines_are_sound_and_nothing_is_written() {
    let copy = Copy::new("sound");
    let before = state(&copy);
    let said = verify(&copy.site.config(), &[]);
    let report = said.expect_sound();
    assert_eq!(state(&copy), before);
    let lineage = &report["lineages"][0];
    assert_eq!(lineage["notDecrypted"], 0);
    let timelines = lineage["timelines"].as_array().unwrap();
    assert_eq!(timelines.len(), 2);
    assert_eq!(timelines[1]["began"]["timeline"], 1);
    assert!(
        timelines
            .iter()
            .all(|timeline| timeline["gaps"].as_array().unwrap().is_empty())
    );
    assert!(timelines[1]["segments"].as_u64().unwrap() >= 4);
    assert!(lineage["lastCommit"].is_string());
    assert!(lineage["recoverable"]["from"].is_string());
    assert_eq!(lineage["backups"][0]["usable"], true);
    // Of each kind there is something, so that each kind was read.
    for kind in lineage["kinds"].as_array().unwrap() {
        assert_ne!(kind["objects"], 0, "{kind}");
    }
    assert_eq!(report["objectsRead"].as_u64().unwrap(), before.len() as u64);
}

#[test]
fn people_get_tables_and_the_last_line_is_the_verdict() {
    let copy = Copy::new("tables");
    let config = copy.site.config();
    let output = said(&command(&config, &[]).output().unwrap());
    assert_eq!(output.code, 0, "{}", output.errors);
    let last = output.text.lines().last().unwrap();
    assert!(last.starts_with("sound: "), "{last}");
    // The two timelines stand one below the other.
    let lines: Vec<&str> = output.text.lines().map(str::trim).collect();
    let header = lines.iter().position(|line| line.starts_with("timeline"));
    let rows = &lines[header.unwrap() + 2..][..2];
    assert!(
        rows[0].starts_with("1  ") && rows[1].starts_with("2  "),
        "{rows:?}"
    );
    let all = copy.objects("wal/00000001");
    fs::remove_file(&all[all.len() - 2]).unwrap();
    let output = said(&command(&config, &[]).output().unwrap());
    assert_eq!(output.code, 1);
    let found: Vec<&str> = output
        .text
        .lines()
        .filter(|line| line.starts_with("Gap: "))
        .collect();
    assert_eq!(found.len(), 1, "{}", output.text);
    assert!(found[0].contains("take a base backup"), "{}", found[0]);
    let last = output.text.lines().last().unwrap();
    assert!(last.starts_with("damaged: 1 finding"), "{last}");
}

/// The report stands alone: the bar is drawn beside it, and taken away.
#[test]
fn on_a_terminal_there_is_a_bar_until_the_end() {
    let copy = Copy::new("terminal");
    let report = copy.site.path("report.json");
    let config = copy.site.config();
    let line = format!(
        "stty rows 24 cols 120; exec {PROGRAM} archive verify --config {} --output json > {}",
        config.display(),
        report.display(),
    );
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let output = terminal.env("TERM", "xterm").stdin(Stdio::null()).output();
    let output = output.unwrap();
    let drawn = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{drawn}");
    assert!(drawn.contains("objects, nothing wrong"), "{drawn:?}");
    // The last that is drawn is a line that is erased.
    assert!(drawn.trim_end().ends_with("\u{1b}[2K"), "{drawn:?}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["verdict"], "Sound");
}

#[test]
fn what_is_not_asked_about_is_not_read() {
    let copy = Copy::new("scope");
    let config = copy.site.config();
    let broken = copy.objects("wal/00000001")[4].clone();
    let name = broken.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut bytes = fs::read(&broken).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&broken, bytes).unwrap();
    assert_eq!(verify(&config, &[]).code, 1);
    assert_eq!(verify(&config, &["--from", &name, "--to", &name]).code, 1);
    assert_eq!(verify(&config, &["--timeline", "1"]).code, 1);
    verify(&config, &["--timeline", "2"]).expect_sound();
    let next = copy.objects("wal/00000001")[5].clone();
    let next = next.file_stem().unwrap().to_str().unwrap().to_owned();
    verify(&config, &["--from", &next]).expect_sound();
}

#[test]
fn what_came_a_moment_ago_may_be_half_done() {
    let copy = Copy::new("young");
    let entries = copy.objects("index/00000002");
    fs::remove_file(&entries[1]).unwrap();
    let said = verify(&copy.site.config(), &[]);
    assert_eq!(said.code, 1, "{}", said.text);
    let segment = &copy.objects("wal/00000002")[1];
    let touched = Command::new("touch").arg(segment).status();
    assert!(touched.unwrap().success());
    let said = verify(&copy.site.config(), &[]);
    said.expect_sound();
    assert!(said.text.contains("may be on its way"), "{}", said.text);
}

#[test]
fn a_lineage_of_a_newer_format_keeps_no_other_from_being_verified() {
    let copy = Copy::new("newer");
    let sound = copy.root();
    let newer = sound.with_file_name("0000000000");
    let copied = Command::new("cp").arg("-a").args([&sound, &newer]).status();
    assert!(copied.unwrap().success());
    let identity = newer.join("identity.json");
    let mut said: serde_json::Value =
        serde_json::from_slice(&fs::read(&identity).unwrap()).unwrap();
    said["format"] = 99.into();
    fs::write(&identity, said.to_string()).unwrap();
    let said = verify(&copy.site.config(), &[]);
    assert_eq!(said.code, 200, "{}", said.text);
    assert!(said.text.contains("it is of format 99"), "{}", said.text);
    assert_eq!(said.report["verdict"], "Incomplete");
    assert_eq!(said.report["lineages"].as_array().unwrap().len(), 1);
    // What is wrong elsewhere is found.
    fs::remove_file(&files(&sound.join("wal/00000001"))[1]).unwrap();
    let said = verify(&copy.site.config(), &[]);
    assert_eq!(said.code, 1, "{}", said.text);
}

#[test]
fn a_wrong_question_is_no_verdict() {
    let copy = Copy::new("wrong");
    let config = copy.site.config();
    for (arguments, says) in [
        (&["--lineage", "0000000000"][..], "is not in the archive"),
        (&["--lineage", "mine"], "failed to parse lineage"),
        (&["--timeline", "0"], "want a number from 1"),
        (&["--from", "1"], "want 24 hexadecimal digits"),
        (&["--identity", "/nowhere"], "there is no file /nowhere"),
        (&["--parallel", "0"], "--parallel"),
    ] {
        let said = verify(&config, arguments);
        assert_eq!(said.code, 2, "{arguments:?} {} {}", said.text, said.errors);
        assert!(said.errors.contains(says), "{}", said.errors);
    }
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("shop-orders", "shop-other")).unwrap();
    let said = verify(&config, &[]);
    assert_eq!(said.code, 2, "{}", said.errors);
    assert!(said.errors.contains("holds no lineage"), "{}", said.errors);
    assert_eq!(verify(&fixture().archive.join("none.yaml"), &[]).code, 2);
}
