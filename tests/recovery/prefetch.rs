//! The prefetcher: used, refused, gone, dying, lying.

use std::{
    fs,
    io::{IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, ExitStatus},
    time::Duration,
};

use highwater::{
    postgres::{Lsn, SegmentName, TimelineId},
    recovery::{Owner, fetch::FetchProgress, prefetch::Prefetcher},
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::json;

use crate::{Restore, cluster, fixture};

const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");

/// PostgreSQL's fetches are given an archive that is not there, but for history files.
async fn without_archive(name: &str, prefetch: bool) -> Restore {
    let mut restore = Restore::new(name, fixture().await.end, json!(null)).await;
    let mut config = restore.job.fetch.clone();
    config.mounted.directory = "/nowhere".into();
    config.socket = config.socket.filter(|_| prefetch);
    let path = restore.root().join("nowhere.json");
    fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
    cluster::hand_over(&path);
    let script = format!(
        "case \"$5\" in *.history) exec '{HIGHWATER}' \"$@\";; esac\n\
         exec '{HIGHWATER}' wal fetch --config '{}' \"$5\" \"$6\"",
        path.display()
    );
    restore.job.program = restore.script("fetch", &script);
    restore
}

#[tokio::test]
async fn every_segment_comes_from_the_prefetcher() {
    let restore = without_archive("p-only", true).await;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await, (5000, Some(4000), Some(8999)));
    // Without it there is indeed nothing to be had.
    let control = without_archive("p-none", false).await;
    let error = control.run().await.unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

/// Once some WAL was handed out.
async fn begun(progress: &Path) {
    while FetchProgress::read(progress).reached.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Recovers while `after` is done in the middle.
async fn disturbed(name: &str, after: impl FnOnce(&Path)) -> Restore {
    let restore = Restore::new(name, fixture().await.end, json!(null)).await;
    let disturb = async {
        begun(&restore.job.fetch.progress).await;
        after(restore.job.fetch.socket.as_deref().unwrap());
        let at = FetchProgress::read(&restore.job.fetch.progress).reached;
        assert!(at < Some(fixture().await.end), "it was over before");
    };
    let (recovered, ()) = tokio::join!(restore.run(), disturb);
    recovered.unwrap();
    assert_eq!(restore.rows().await, (5000, Some(4000), Some(8999)));
    restore
}

#[tokio::test]
async fn its_socket_goes() {
    disturbed("p-gone", |socket| fs::remove_file(socket).unwrap()).await;
}

#[tokio::test]
async fn it_never_was_there() {
    let mut restore = Restore::new("p-never", fixture().await.end, json!(null)).await;
    restore.job.fetch.socket = None;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 5000);
}

/// What a prefetcher that dies does to a client; returns how often it was asked.
fn replaced(socket: &Path, die: impl Fn(UnixStream) + Send + 'static) {
    fs::remove_file(socket).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    cluster::hand_over(socket);
    std::thread::spawn(move || listener.incoming().flatten().for_each(die));
}

/// A file that the client wants the segment in.
fn destination(client: &UnixStream) -> fs::File {
    let mut name = [0; 25];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let mut name = [IoSliceMut::new(&mut name)];
    recvmsg(client, &mut name, &mut attached, RecvFlags::CMSG_CLOEXEC).unwrap();
    let descriptor = attached.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut all) => all.next(),
        _ => None,
    });
    fs::File::from(descriptor.unwrap() as OwnedFd)
}

#[tokio::test]
async fn it_dies_while_it_is_asked() {
    disturbed("p-dies", |socket| replaced(socket, drop)).await;
}

#[tokio::test]
async fn it_dies_while_it_writes() {
    let half = |client: UnixStream| {
        destination(&client).write_all(&vec![7; 1 << 19]).unwrap();
    };
    disturbed("p-half", move |socket| replaced(socket, half)).await;
}

/// It may still write after the client has given up on it: into a file that nobody reads.
#[tokio::test]
async fn it_writes_when_nobody_waits_any_more() {
    let late = |client: UnixStream| {
        let mut file = destination(&client);
        drop(client);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(3));
            file.write_all(&vec![7; 1 << 20]).unwrap();
        });
    };
    disturbed("p-late", move |socket| replaced(socket, late)).await;
}

/// Says that the segment lies in `file`.
fn say_written(client: &UnixStream, file: &fs::File) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    assert!(attached.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let text = [IoSlice::new(b"1")];
    sendmsg(client, &text, &mut attached, SendFlags::NOSIGNAL).unwrap();
}

#[tokio::test]
async fn it_says_that_it_wrote_what_it_did_not() {
    let short = |client: UnixStream| {
        let mut file = destination(&client);
        file.write_all(&[7; 1000]).unwrap();
        say_written(&client, &file);
    };
    disturbed("p-short", move |socket| replaced(socket, short)).await;
}

#[tokio::test]
async fn it_says_that_it_wrote_and_not_where() {
    let nowhere = |mut client: UnixStream| {
        drop(destination(&client));
        client.write_all(b"1").unwrap();
    };
    disturbed("p-nowhere", move |socket| replaced(socket, nowhere)).await;
}

/// What it gives lies on another disk than the destination.
#[tokio::test]
async fn its_file_cannot_be_given_the_name() {
    let elsewhere = |client: UnixStream| {
        drop(destination(&client));
        let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        say_written(&client, &file);
    };
    disturbed("p-elsewhere", move |socket| replaced(socket, elsewhere)).await;
}

/// Runs `wal fetch` as PostgreSQL's user would.
fn fetch(config: &Path, file: &str, destination: &Path) -> ExitStatus {
    let mut command = match cluster::is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            command.args(["--", HIGHWATER]);
            command
        }
        false => Command::new(HIGHWATER),
    };
    command.args(["wal", "fetch", "--config"]).arg(config);
    command.arg(file).arg(destination);
    command.current_dir("/").status().unwrap()
}

/// A prefetcher outside a recovery, on a restore's socket.
async fn prefetcher(restore: &Restore) -> (Prefetcher, std::path::PathBuf) {
    use std::os::unix::fs::MetadataExt;
    let work = &restore.job.work;
    fs::create_dir(work).unwrap();
    cluster::hand_over(work);
    let config = work.join("fetch.json");
    fs::write(&config, serde_json::to_vec(&restore.job.fetch).unwrap()).unwrap();
    cluster::hand_over(&config);
    let found = fs::metadata(work).unwrap();
    let owner = Owner {
        uid: found.uid(),
        gid: found.gid(),
    };
    let prefetcher = Prefetcher::start(&restore.job.fetch, Some(owner)).unwrap();
    (prefetcher, config)
}

/// pg_rewind looks for the last common checkpoint backwards, and then reads forwards from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pg_rewind_walks_backwards_through_it() {
    let fixture = fixture().await;
    let fork = fixture.before_drop.1;
    // The new primary: promoted before the great deletion.
    let promoted = Restore::new("p-promoted", fork, json!(null)).await;
    promoted.run().await.unwrap();
    // The old one went on, and has lost the WAL of the time before.
    let restore = Restore::new("p-rewind", fixture.end, json!(null)).await;
    let (_prefetcher, config) = prefetcher(&restore).await;
    let old = restore.root().join("old");
    cluster::copy(&fixture.stopped(), &old);
    let mut lost = 0;
    for name in segments(fixture.start, fork) {
        lost += usize::from(fs::remove_file(old.join("pg_wal").join(name.to_string())).is_ok());
    }
    assert!(lost > 2, "{lost}");
    let settings = format!(
        "restore_command = '{HIGHWATER} wal fetch --config {} %f \"%p\"'\n",
        config.display()
    );
    fs::write(old.join("postgresql.auto.conf"), settings).unwrap();
    let rewound = cluster::run(
        "pg_rewind",
        &[
            "--restore-target-wal",
            "--no-ensure-shutdown",
            "-D",
            &old.to_string_lossy(),
            "--source-pgdata",
            &promoted.pgdata().to_string_lossy(),
        ],
    );
    assert!(rewound.status.success(), "{rewound:?}");
    let handed_out = FetchProgress::read(&restore.job.fetch.progress).segments;
    assert!(handed_out > 2, "{handed_out}");
}

fn segments(from: Lsn, to: Lsn) -> Vec<SegmentName> {
    let first = SegmentName::containing(TimelineId::FIRST, from, cluster::SIZE);
    std::iter::successors(Some(first), |name| Some(name.next(cluster::SIZE)))
        .take_while(|name| name.start(cluster::SIZE) <= to)
        .collect()
}

/// In any order, each again and again, with and without a prefetcher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_asked_for_is_the_right_one() {
    let fixture = fixture().await;
    let restore = Restore::new("p-order", fixture.end, json!(null)).await;
    let (prefetcher, config) = prefetcher(&restore).await;
    let all = segments(fixture.start, fixture.end);
    let backwards = all.iter().rev();
    let jumps = (0..all.len()).map(|at| &all[at * 5 % all.len()]);
    let destination = restore.job.work.join("RECOVERYXLOG");
    let check = |name: &SegmentName| {
        let status = fetch(&config, &name.to_string(), &destination);
        assert!(status.success(), "{name}: {status}");
        let mut original = fs::read(fixture.wal().join(name.to_string())).unwrap();
        let valid = fixture.end.bytes_since(name.start(cluster::SIZE));
        let valid = usize::try_from(valid).unwrap().min(original.len());
        original[valid..].fill(0);
        assert!(fs::read(&destination).unwrap() == original, "{name}");
        fs::remove_file(&destination).unwrap();
    };
    all.iter().chain(backwards).chain(jumps).for_each(check);
    let past = all.last().unwrap().next(cluster::SIZE);
    let status = fetch(&config, &past.to_string(), &destination);
    assert_eq!(status.code(), Some(1), "past the end of the plan");
    drop(prefetcher);
    all.iter().for_each(check);
}
