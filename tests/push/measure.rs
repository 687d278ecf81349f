//! Segments per second and CPU per segment, with and without a delay before the store. Run by hand, with a release build:
//! `MEASURE_PROGRAM=…/release/highwater cargo test --test push -- --ignored --nocapture measure`

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    proxy::Proxy,
    sample::status_file,
    site::{Cluster, Site, compare, ready, server},
};

const SEGMENTS: usize = 48;

fn program() -> PathBuf {
    let program = std::env::var_os("MEASURE_PROGRAM").expect("MEASURE_PROGRAM");
    program.into()
}

/// A data directory with segments of 16 MiB as pgbench writes them, made once.
fn sample() -> PathBuf {
    let site = std::mem::ManuallyDrop::new(Site::new("measure-none"));
    let pgdata = site.root.with_file_name("measure-sample").join("data");
    if pgdata.join("finished").exists() {
        return pgdata;
    }
    let site = std::mem::ManuallyDrop::new(Site::new("measure-sample"));
    let cluster = Cluster::init(site.path("data"), 16);
    cluster.archive_with("false");
    cluster.start();
    cluster.pgbench(&["-i", "-s", "30"]);
    while cluster.ready().len() < SEGMENTS {
        cluster.sql("CHECKPOINT");
        cluster.pgbench(&["-n", "-c", "4", "-t", "1000"]);
    }
    cluster.stop("fast");
    fs::write(pgdata.join("finished"), "").unwrap();
    pgdata
}

/// The sample's log with `SEGMENTS` segments that wait.
fn fresh(site: &Site, sample: &Path) -> PathBuf {
    let pgdata = site.path("data");
    let _ = fs::remove_dir_all(&pgdata);
    fs::create_dir_all(pgdata.join("pg_wal/archive_status")).unwrap();
    fs::create_dir(pgdata.join("global")).unwrap();
    fs::copy(
        sample.join("global/pg_control"),
        pgdata.join("global/pg_control"),
    )
    .unwrap();
    let names: Vec<String> = ready(sample)
        .into_iter()
        .filter(|name| name.len() == 24)
        .collect();
    for name in &names[..SEGMENTS] {
        fs::hard_link(
            sample.join("pg_wal").join(name),
            pgdata.join("pg_wal").join(name),
        )
        .unwrap();
        fs::write(status_file(&pgdata, name, "ready"), "").unwrap();
    }
    // It runs as whoever measures.
    fs::remove_dir_all(site.path("state")).unwrap();
    pgdata
}

/// As PostgreSQL's archiver: one scan, lowest first, those that are done meanwhile left out.
fn archive(pgdata: &Path, command: &str) -> usize {
    let mut calls = 0;
    for name in ready(pgdata) {
        let from = status_file(pgdata, &name, "ready");
        if !from.exists() {
            continue;
        }
        calls += 1;
        let line = command.replace("%p", &format!("pg_wal/{name}"));
        let status = Command::new("sh")
            .args(["-c", &line])
            .current_dir(pgdata)
            .status()
            .unwrap();
        assert!(status.success(), "{status:?}");
        fs::rename(&from, status_file(pgdata, &name, "done")).unwrap();
    }
    calls
}

/// User and system time in milliseconds: fields of `/proc/<pid>/stat` after the name.
fn cpu(pid: &str, fields: [usize; 2]) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields
        .iter()
        .map(|field| rest[field - 3].parse::<u64>().unwrap())
        .sum();
    ticks * 10
}

const OWN: [usize; 2] = [14, 15];
const CHILDREN: [usize; 2] = [16, 17];

fn peak(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or_default().to_owned()
}

async fn round(name: &str, daemon: bool, delay: u64, level: i32) {
    let proxy = Proxy::start(server().port(), Duration::from_millis(delay));
    let port = if delay == 0 {
        server().port()
    } else {
        proxy.port()
    };
    let site = Site::at(name, port);
    let config = fs::read_to_string(site.config()).unwrap();
    let level = format!("  compression: {{algorithm: zstd, level: {level}}}\narchiveName");
    fs::write(site.config(), config.replace("archiveName", &level)).unwrap();
    let pgdata = fresh(&site, &sample());
    let (program, config) = (program(), site.config());
    let (program, config) = (program.display(), config.display());
    let socket = site.socket();
    let started = daemon.then(|| {
        let mut command = Command::new(program.to_string());
        command
            .args(["wal", "daemon", "--config"])
            .arg(site.config());
        command.arg("--socket").arg(&socket).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        crate::site::wait_for("daemon", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        child
    });
    let command = match daemon {
        true => format!("{program} wal push --socket {} %p", socket.display()),
        false => format!("{program} wal push --config {config} %p"),
    };
    let before = cpu("self", CHILDREN);
    let begin = Instant::now();
    let calls = archive(&pgdata, &command);
    let took = begin.elapsed();
    let mut used = cpu("self", CHILDREN) - before;
    let mut memory = String::new();
    if let Some(mut child) = started {
        used += cpu(&child.id().to_string(), OWN);
        memory = peak(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    println!(
        "{name:12} {delay:3} ms: {:5.1} segments/s, {:5.1} ms CPU per segment, {calls} calls {memory}",
        SEGMENTS as f64 / took.as_secs_f64(),
        used as f64 / SEGMENTS as f64,
    );
    let cluster = Cluster {
        pgdata,
        size: highwater::postgres::SegmentSize::DEFAULT,
    };
    compare(&cluster, &Site::lineage(&site).await).await;
}

#[tokio::test]
#[ignore = "a measurement: takes minutes, and needs a release build"]
async fn measure() {
    sample();
    for level in [1, 3] {
        println!(
            "zstd level {level}, load {}",
            fs::read_to_string("/proc/loadavg").unwrap().trim()
        );
        for delay in [0, 30] {
            for _ in 0..2 {
                round("calls", false, delay, level).await;
                round("daemon", true, delay, level).await;
            }
        }
    }
    starts();
}

/// What starting the client costs: nobody listens.
fn starts() {
    let program = program();
    for arguments in [
        &["wal", "push", "--socket", "/nowhere", "x"][..],
        &["wal", "push", "--config", "/nowhere", "x"],
        &["--version"],
    ] {
        let before = cpu("self", CHILDREN);
        let begin = Instant::now();
        for _ in 0..200 {
            let mut command = Command::new(&program);
            command
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().unwrap();
        }
        let used = cpu("self", CHILDREN) - before;
        println!(
            "200 times {arguments:?}: {:?}, CPU {used} ms",
            begin.elapsed()
        );
    }
}

/// The memory of one call that pushes several segments.
#[test]
#[ignore = "a measurement: needs a release build"]
fn measure_memory() {
    for parallel in [1, 4] {
        let site = Site::new("memory");
        site.configure(&format!("parallelUploads: {parallel}"));
        let pgdata = fresh(&site, &sample());
        let first = ready(&pgdata).into_iter().min().unwrap();
        let mut command = Command::new(program());
        command.args(["wal", "push", "--config"]).arg(site.config());
        command.arg(format!("pg_wal/{first}")).current_dir(&pgdata);
        let mut child = command.spawn().unwrap();
        let mut most = String::new();
        while child.try_wait().unwrap().is_none() {
            let now = peak(child.id());
            if !now.is_empty() {
                most = now;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("parallelUploads {parallel}: {most}");
    }
}
