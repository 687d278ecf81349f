//! How long PostgreSQL takes to recover with `cp`, with fetch alone and with fetch and its prefetcher: in one run, one after
//! the other, three times. Not part of the tests: `make bench-database` and `make bench-restore` run it.
//! `SEGMENTS` (default 100) of 16 MiB; `ROUNDS` (3); `LATENCY` milliseconds (default 30) before each request to the store
//! where it is far.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use highwater::{
    archive::{Archive, FORMAT, Identity, IndexEntry},
    postgres::{Lsn, SegmentName, SegmentSize, TimelineId},
    recovery::{
        Owner,
        fetch::{FetchConfig, MountedPaths, Stretch},
        prefetch::Prefetcher,
    },
};
use serde_json::json;

use crate::{
    cluster::{self, Running},
    store::server::{self, BUCKET, Server},
};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
/// Of the time that recovery takes with `cp` from a local directory.
const AT_MOST: f64 = 1.1;
const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A base backup and the segments after it.
struct Log {
    root: PathBuf,
    label: String,
    segments: Vec<SegmentName>,
}

impl Log {
    async fn write(root: PathBuf, count: u64) -> Self {
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        cluster::hand_over(&root);
        let pgdata = root.join("source");
        let path = pgdata.to_string_lossy().into_owned();
        let arguments = ["-D", &path, "-N", "-U", "postgres", "--auth=trust"];
        assert!(cluster::run("initdb", &arguments).status.success());
        let source = Running::start(
            &pgdata,
            "-c wal_keep_size=100GB -c max_wal_size=1GB -c fsync=off -c shared_buffers=512MB",
        );
        let bench = |arguments: &[&str]| {
            let host = root.to_string_lossy();
            let mut all = vec!["-h", &*host, "-U", "postgres"];
            all.extend_from_slice(arguments);
            assert!(cluster::run("pgbench", &all).status.success());
        };
        bench(&["-q", "-i", "-s", "20", "postgres"]);
        let sql = source.connect().await;
        let text =
            async |query: &str| -> String { sql.query_one(query, &[]).await.unwrap().get(0) };
        let start: Lsn = text("SELECT pg_backup_start('base', true)::text")
            .await
            .parse()
            .unwrap();
        cluster::copy(&pgdata, &root.join("base"));
        let label = text("SELECT labelfile FROM pg_backup_stop(false)").await;
        let first = SegmentName::containing(TimelineId::FIRST, start, SIZE);
        let end = first.start(SIZE).advance(count * SIZE.get());
        while text("SELECT pg_current_wal_flush_lsn()::text")
            .await
            .parse::<Lsn>()
            .unwrap()
            < end
        {
            bench(&["-n", "-c", "4", "-t", "2000", "postgres"]);
        }
        let segments = std::iter::successors(Some(first), |name| Some(name.next(SIZE)));
        let segments: Vec<_> = segments.take(usize::try_from(count).unwrap()).collect();
        drop(source);
        fs::create_dir(root.join("wal")).unwrap();
        for name in segments.iter().map(ToString::to_string) {
            fs::rename(
                pgdata.join("pg_wal").join(&name),
                root.join("wal").join(&name),
            )
            .unwrap();
        }
        fs::remove_dir_all(pgdata).unwrap();
        fs::remove_dir_all(root.join("base/pg_wal")).unwrap();
        for directory in ["base/pg_wal", "base/pg_wal/archive_status"] {
            fs::create_dir(root.join(directory)).unwrap();
            cluster::hand_over(&root.join(directory));
        }
        Self {
            root,
            label,
            segments,
        }
    }

    async fn archive(&self, server: &Server) {
        let archive = Archive::new(server.store(), &server.spec(BUCKET), "bench");
        let lineage = archive.unwrap().lineage(cluster::LINEAGE.parse().unwrap());
        let identity = Identity {
            format: FORMAT,
            lineage: cluster::LINEAGE.parse().unwrap(),
            system_identifier: "1".parse().unwrap(),
            major_version: 15,
            segment_size: SIZE,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        lineage.create_identity(&identity).await.unwrap();
        for name in &self.segments {
            let bytes = fs::read(self.root.join("wal").join(name.to_string())).unwrap();
            let entry = IndexEntry::of(*name, SIZE, &bytes);
            lineage
                .push_segment(*name, bytes.into(), &entry)
                .await
                .unwrap();
        }
    }

    fn config(&self, port: u16, socket: Option<PathBuf>) -> FetchConfig {
        let credentials = self.root.join("credentials");
        fs::create_dir_all(&credentials).unwrap();
        fs::write(credentials.join("AWS_ACCESS_KEY_ID"), server::KEY_ID).unwrap();
        fs::write(credentials.join("AWS_SECRET_ACCESS_KEY"), server::SECRET).unwrap();
        let start = self.segments.first().unwrap().start(SIZE);
        let end = self.segments.last().unwrap().end(SIZE);
        let plan = json!({
            "summary": "", "backup": "b", "backupKey": "b", "archive": "a", "archiveName": "bench",
            "lineage": cluster::LINEAGE, "timeline": 1, "walFrom": start, "walTo": end, "bytes": 1,
        });
        FetchConfig {
            archive: server::spec(port, BUCKET),
            mounted: MountedPaths {
                credentials: Some(credentials),
                ca: None,
                decryption: None,
                directory: "/nowhere".into(),
            },
            plan: serde_json::from_value(plan).unwrap(),
            line: vec![Stretch {
                timeline: TimelineId::FIRST,
                begins: Lsn::new(0),
                ends: end,
            }],
            segment_size: SIZE,
            deadline_seconds: 60,
            progress: self.root.join("progress.json"),
            socket,
        }
    }

    fn command(&self, config: &FetchConfig, name: &str) -> String {
        let path = self.root.join(name);
        fs::write(&path, serde_json::to_vec(config).unwrap()).unwrap();
        cluster::hand_over(&path);
        format!("{HIGHWATER} wal fetch --config {} %f %p", path.display())
    }

    /// Seconds from PostgreSQL's start to its promotion, at the end of all segments.
    fn recover(&self, restore_command: &str) -> f64 {
        let pgdata = self.root.join("data");
        let _ = fs::remove_dir_all(&pgdata);
        cluster::copy(&self.root.join("base"), &pgdata);
        let _ = fs::remove_file(pgdata.join("postmaster.pid"));
        fs::write(pgdata.join("backup_label"), &self.label).unwrap();
        cluster::hand_over(&pgdata.join("backup_label"));
        fs::write(pgdata.join("recovery.signal"), "").unwrap();
        cluster::hand_over(&pgdata.join("recovery.signal"));
        let settings = format!(
            "restore_command = '{restore_command}'\nhot_standby = off\nshared_buffers = 512MB\nmax_wal_size = 8GB\n"
        );
        fs::write(pgdata.join("postgresql.auto.conf"), settings).unwrap();
        assert!(Command::new("sync").status().unwrap().success());
        let _ = fs::remove_file(self.root.join("log"));
        let started = Instant::now();
        let running = Running::start(&pgdata, "-c recovery_target_timeline=1");
        // Without hot standby pg_ctl waits for no more than the beginning.
        let status = || {
            let text = fs::read_to_string(pgdata.join("postmaster.pid")).unwrap();
            text.lines().nth(7).map(|line| line.trim().to_owned())
        };
        while status().as_deref() != Some("ready") {
            std::thread::sleep(Duration::from_millis(10));
        }
        let seconds = started.elapsed().as_secs_f64();
        drop(running);
        let log = fs::read_to_string(self.root.join("log")).unwrap();
        let last = self.segments.last().unwrap();
        assert!(
            log.contains(&format!("restored log file \"{last}\"")),
            "{log}"
        );
        seconds
    }

    /// Segments per second, asked for one after the other as PostgreSQL does, with nothing in between.
    fn fetch_all(&self, restore_command: &str) -> f64 {
        let destination = self.root.join("RECOVERYXLOG");
        let started = Instant::now();
        for name in &self.segments {
            let command = restore_command
                .replace("%f", &name.to_string())
                .replace("%p", &destination.to_string_lossy());
            let status = Command::new("sh").args(["-c", &command]).status().unwrap();
            assert!(status.success(), "{command}");
        }
        self.segments.len() as f64 / started.elapsed().as_secs_f64()
    }
}

/// Waits before it passes on what a client sends.
fn delayed(upstream: u16, latency: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut server = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
                let mut buffer = [0; 65536];
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    std::thread::sleep(latency);
                    if server.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    port
}

/// Stops when it is dropped.
struct Serving {
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// On a runtime of its own, with one thread, as in the recovery program.
fn prefetcher(config: FetchConfig, owner: Owner) -> Serving {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let _prefetcher = Prefetcher::start(&config, Some(owner)).unwrap();
            ready.send(()).unwrap();
            let _ = stopped.await;
        });
    });
    is_ready.recv().unwrap();
    Serving { _stop: stop }
}

fn owner(path: &Path) -> Owner {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).unwrap();
    Owner {
        uid: found.uid(),
        gid: found.gid(),
    }
}

/// A way to recover: its name, its restore_command, and what reads ahead beside it.
type Method = (&'static str, String, Option<FetchConfig>);

/// `cp` first.
fn methods(log: &Log, near: u16) -> Vec<Method> {
    let far = delayed(near, Duration::from_millis(number("LATENCY", 30)));
    let socket = log.root.join("fetch.sock");
    let cp = format!("cp {}/%f %p", log.root.join("wal").display());
    let mut methods = vec![("cp", cp, None)];
    for (direct, prefetch, port) in [
        ("direct", "prefetch", near),
        ("direct-far", "prefetch-far", far),
    ] {
        methods.push((direct, log.command(&log.config(port, None), direct), None));
        let config = log.config(port, Some(socket.clone()));
        methods.push((prefetch, log.command(&config, prefetch), Some(config)));
    }
    methods
}

/// Seconds that each method takes in each round.
fn rounds(log: &Log, methods: &[Method]) -> Vec<Vec<f64>> {
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); methods.len()];
    for round in 1..=number("ROUNDS", 3) {
        for ((name, command, prefetch), times) in methods.iter().zip(&mut times) {
            let serve = || {
                prefetch
                    .clone()
                    .map(|config| prefetcher(config, owner(&log.root)))
            };
            let serving = serve();
            let recovered = log.recover(command);
            times.push(recovered);
            drop(serving);
            let serving = serve();
            let rate = log.fetch_all(command);
            drop(serving);
            println!(
                "round {round}: {name:12} recovery {recovered:.2} s, fetch alone {rate:.1} segments/s"
            );
        }
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, and takes minutes"]
async fn speed() {
    let server = Server::start();
    let root = PathBuf::from("/tmp/highwater-speed");
    let log = Log::write(root.clone(), number("SEGMENTS", 100)).await;
    log.archive(&server).await;
    let methods = methods(&log, server.port());
    cluster::hand_over(&root.join("credentials"));
    let times = rounds(&log, &methods);
    drop(server);
    fs::remove_dir_all(root).unwrap();
    let names = methods.iter().map(|(name, ..)| *name);
    let ratios: BTreeMap<&str, f64> = names.zip(ratios_to_first(&times)).collect();
    println!(
        "recovery of {} segments, medians of each round's ratio to cp: {ratios:.3?}",
        log.segments.len()
    );
    let ours = ratios["prefetch"];
    let holds = ours <= AT_MOST;
    let said = if holds { "holds" } else { "DOES NOT HOLD" };
    println!("  recovery with our fetch to cp  {ours:.2}  {said}  at most {AT_MOST}");
    assert!(holds, "recovery takes {ours:.3} of what it takes with cp");
}

/// The median of each method's times, each to the first method's of the same round.
fn ratios_to_first(times: &[Vec<f64>]) -> Vec<f64> {
    let ratio = |times_of: &Vec<f64>| {
        let mut ratios: Vec<f64> = times_of
            .iter()
            .zip(&times[0])
            .map(|(ours, cp)| ours / cp)
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    times.iter().map(ratio).collect()
}
