//! `wal fetch` under a standby: more than 125 would kill it, so a failure is exit 1, and it asks again.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use highwater::{
    postgres::{Lsn, SegmentName},
    recovery::fetch::FetchConfig,
};

use crate::{
    calls::wait_for,
    cluster::{self, Running},
    faults::Volume,
    fixture,
    proxy::Fault,
    store::{BUCKET, Stored, segment_of},
};

const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");

/// Why the fetches of a segment fail.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// Requests for it are broken.
    Segment(Fault),
    /// Every request is, from the first one for it on.
    Everything(Fault),
    /// There is no such bucket any more.
    Bucket,
    /// The store's name does not resolve.
    Name,
    /// There is no room where it is to be written.
    Disk,
    /// The key is another one than it is encrypted to.
    Key,
}

/// Undoes a failure.
type Mend = Box<dyn FnOnce()>;

/// A standby whose only source of WAL is the archive.
struct Standby {
    // In the order in which they go.
    running: Option<Running>,
    _volume: Option<Volume>,
    stored: Stored,
}

impl Standby {
    fn new(mut stored: Stored, volume: bool) -> Self {
        let volume = volume.then(|| Volume::for_wal(&mut stored.restore, "64m"));
        let restore = &stored.restore;
        let root = restore.root().to_owned();
        let fetch = FetchConfig {
            deadline_seconds: 1,
            progress: root.join("progress.json"),
            socket: None,
            ..restore.job.fetch.clone()
        };
        let config = root.join("fetch.json");
        fs::write(&config, serde_json::to_vec(&fetch).unwrap()).unwrap();
        // A segment may have a configuration of its own; what PostgreSQL is told is kept.
        let root = root.display();
        let script = format!(
            "config='{root}'/$1.json\n\
             test -e \"$config\" || config='{root}/fetch.json'\n\
             '{HIGHWATER}' wal fetch --config \"$config\" \"$1\" \"$2\"\n\
             code=$?\n\
             echo \"$1 $code\" >> '{root}/codes'\n\
             exit $code"
        );
        let script = restore.script("fetch", &script);
        restore.by_hand("standby.signal", &format!("{} %f %p", script.display()));
        Self {
            running: None,
            _volume: volume,
            stored,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stored.restore.root().join(name)
    }

    fn running(&mut self) -> &Running {
        let pgdata = self.stored.restore.pgdata();
        self.running.get_or_insert_with(|| {
            let options = "-c max_prepared_transactions=5 -c wal_level=logical";
            Running::start(pgdata, options)
        })
    }

    /// The exit codes of all fetches of files whose names begin so.
    fn codes(&self, file: &str) -> Vec<String> {
        let all = fs::read_to_string(self.path("codes")).unwrap_or_default();
        let codes = all.lines().filter(|line| line.starts_with(file));
        let codes = codes.filter_map(|line| line.split(' ').nth(1));
        codes.map(str::to_owned).collect()
    }

    /// Fetches of `segment` fail from now on, and those that failed before do not.
    fn fail(&self, segment: SegmentName, failure: Failure) -> Mend {
        let (proxy, name) = (&self.stored.proxy, segment.to_string());
        match failure {
            Failure::Segment(fault) => proxy.break_at(&name, false, fault, None),
            Failure::Everything(fault) => proxy.break_at(&name, true, fault, None),
            Failure::Bucket => {
                let data = self.stored.server.data();
                let (here, away) = (data.join(BUCKET), data.join("renamed"));
                let (from, to) = (here.clone(), away.clone());
                let rename = Box::new(move || fs::rename(from, to).unwrap());
                proxy.break_at(&name, false, Fault::None, Some(rename));
                return Box::new(move || fs::rename(away, here).unwrap());
            }
            Failure::Disk => {
                let filler = self.stored.restore.pgdata().join("pg_wal/filler");
                let filled = filler.clone();
                let fill = Box::new(move || fill(&filled));
                proxy.break_at(&name, false, Fault::None, Some(fill));
                return Box::new(move || fs::remove_file(filler).unwrap());
            }
            Failure::Name => {
                let here = format!("http://127.0.0.1:{}", proxy.port);
                return self.configure(&name, &here, "http://no-such-store.invalid:9000");
            }
            Failure::Key => {
                let fits = &self.stored.restore.job.fetch.mounted.decryption;
                let fits = fits.as_ref().unwrap().to_string_lossy();
                let other = self.path("another-identity");
                cluster::write_key(&other);
                return self.configure(&name, &fits, &other.to_string_lossy());
            }
        }
        Box::new(|| {})
    }

    /// The fetch of `segment` has another configuration than the others.
    fn configure(&self, segment: &str, from: &str, to: &str) -> Mend {
        let config = fs::read_to_string(self.path("fetch.json")).unwrap();
        assert!(config.contains(from), "{config}");
        let path = self.path(&format!("{segment}.json"));
        fs::write(&path, config.replace(from, to)).unwrap();
        self.stored.proxy.mend();
        Box::new(move || fs::remove_file(path).unwrap())
    }

    async fn replayed(&mut self) -> (bool, Lsn) {
        let query = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text";
        let sql = self.running().connect().await;
        let row = sql.query_one(query, &[]).await.unwrap();
        (row.get(0), row.get::<_, String>(1).parse().unwrap())
    }

    /// It asks for `segment` in vain, and again, and its log says why.
    async fn asks_again(&mut self, segment: SegmentName, why: &str) {
        self.running();
        let running = self.running.as_ref().unwrap();
        let name = segment.to_string();
        let again = || {
            assert!(!running.has_ended(), "{}", running.log());
            let codes = self.codes(&name);
            codes.iter().filter(|code| *code == "1").count() >= 2
        };
        wait_for("further question of the standby", again).await;
        let about_it = |line: &str| line.contains(&name) || line.contains("RECOVERYXLOG");
        let says = |line: &str| about_it(line) && line.contains(why);
        wait_for(why, || running.log().lines().any(says)).await;
        let (in_recovery, lsn) = self.replayed().await;
        assert!(in_recovery && lsn <= segment.start(cluster::SIZE), "{lsn}");
    }

    async fn reaches_the_end(&mut self) {
        let end = fixture().await.end;
        for tries in 0.. {
            let (in_recovery, lsn) = self.replayed().await;
            assert!(in_recovery && tries < 3000, "{lsn}");
            if lsn >= end {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let sql = self.running().connect().await;
        let row = sql.query_one("SELECT count(*) FROM ledger", &[]).await;
        assert_eq!(row.unwrap().get::<_, i64>(0), 5000);
        self.stored.restore.is_not_promoted();
        let codes = self.codes("");
        assert!(codes.iter().all(|code| code == "0" || code == "1"));
    }
}

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[0; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
}

/// One failure after the other, each of a segment: the standby survives it and asks again, and once it is mended it goes on to
/// the next. With each what its log says.
async fn survives(stored: Stored, failures: &[(Failure, &str)]) {
    let fills = |(failure, _): &(Failure, &str)| matches!(failure, Failure::Disk);
    let mut standby = Standby::new(stored, failures.iter().any(fills));
    let fixture = fixture().await;
    // The copy is consistent before it, or it could not be asked.
    let first = fixture.start.advance(4 * cluster::SIZE.get());
    let (mut segment, mut mend): (_, Mend) = (segment_of(first), Box::new(|| {}));
    assert!(fixture.stop < segment.start(cluster::SIZE));
    for (failure, why) in failures {
        let before = std::mem::replace(&mut mend, standby.fail(segment, *failure));
        before();
        standby.asks_again(segment, why).await;
        segment = segment.next(cluster::SIZE);
    }
    assert!(segment.start(cluster::SIZE) < fixture.end, "too many");
    standby.stored.proxy.mend();
    mend();
    standby.reaches_the_end().await;
}

#[tokio::test]
async fn a_standby_survives_a_gap() {
    let gap = [(Failure::Segment(Fault::NotFound), "the restore needs it")];
    survives(Stored::new("s-gap").await, &gap).await;
}

#[tokio::test]
async fn a_standby_survives_a_store_that_fails() {
    let failures = [
        (Failure::Everything(Fault::ServerError), "within 1 s"),
        (Failure::Everything(Fault::Reset), "within 1 s"),
        (Failure::Segment(Fault::OtherContent), "SHA-256 is"),
    ];
    survives(Stored::new("s-fails").await, &failures).await;
}

#[tokio::test]
async fn a_standby_survives_a_store_that_does_not_know_it() {
    let failures = [
        (Failure::Everything(Fault::Denied), "AccessDenied"),
        (Failure::Everything(Fault::OtherKeyId), "XAdminUserNotFound"),
        (
            Failure::Everything(Fault::OtherSecret),
            "SignatureDoesNotMatch",
        ),
    ];
    survives(Stored::new("s-denied").await, &failures).await;
}

#[tokio::test]
async fn a_standby_survives_a_store_that_is_away() {
    let failures = [
        (Failure::Everything(Fault::Silence), "within 1 s"),
        (Failure::Segment(Fault::Truncated), "within 1 s"),
        (Failure::Bucket, "NoSuchBucket"),
    ];
    survives(Stored::new("s-away").await, &failures).await;
}

#[tokio::test]
async fn a_standby_survives_what_is_wrong_where_it_runs() {
    let failures = [
        (Failure::Name, "within 1 s"),
        (Failure::Disk, "No space left on device"),
        (Failure::Key, "none of the given decryption keys fits"),
    ];
    survives(Stored::encrypted("s-here").await, &failures).await;
}
