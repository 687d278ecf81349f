//! A pool on a loop file and a driver that serves it; everything goes away with the value, also
//! when a test panics.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(missing_docs, reason = "shared by tests alone")]
#![allow(dead_code, reason = "not every test uses all of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use highwater_test_csi_driver::proto::csi::controller_client::ControllerClient;
use highwater_test_csi_driver::proto::csi::volume_capability::access_mode::Mode;
use highwater_test_csi_driver::proto::csi::volume_capability::{
    AccessMode, AccessType, MountVolume,
};
use highwater_test_csi_driver::proto::csi::{
    CreateSnapshotRequest, CreateVolumeRequest, Snapshot, Volume, VolumeCapability,
    VolumeContentSource,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const DEADLINE: Duration = Duration::from_secs(20);

pub struct Driver {
    folder: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Driver {
    /// Starts a driver with a new pool.
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("hw-csi").tempdir().unwrap();
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        let mut driver = Self {
            folder,
            arguments,
            child: None,
        };
        let image = driver.path("image");
        fs::File::create(&image).unwrap().set_len(2 << 30).unwrap();
        run(Command::new("mkfs.btrfs")
            .args(["-q", "-m", "single"])
            .arg(&image));
        fs::create_dir(driver.pool()).unwrap();
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(driver.pool()));
        driver.launch();
        driver
    }

    pub fn launch(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater-test-csi-driver"));
        command
            .arg("--endpoint")
            .arg(self.socket())
            .arg("--pool")
            .arg(self.pool());
        command
            .arg("--registration")
            .arg(self.registration())
            .args(["--node-id", "node1"]);
        command
            .arg("--control")
            .arg(self.control())
            .args(&self.arguments);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"));
        self.child = Some(command.stderr(log.unwrap()).spawn().unwrap());
        let begin = Instant::now();
        while !accepts(&self.socket()) || !accepts(&self.registration()) {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the driver ended: {}", self.log());
            assert!(
                begin.elapsed() < DEADLINE,
                "the driver does not listen: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the driver by SIGTERM.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if begin.elapsed() > DEADLINE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the driver does not end: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pool(&self) -> PathBuf {
        self.path("pool")
    }

    pub fn socket(&self) -> PathBuf {
        self.path("csi.sock")
    }

    pub fn registration(&self) -> PathBuf {
        self.path("registration.sock")
    }

    pub fn control(&self) -> PathBuf {
        self.path("control.json")
    }

    /// Switches faults on, from the next request.
    pub fn faults(&self, json: &str) {
        let new = self.path("control.new");
        fs::write(&new, format!("{{\"faults\": {json}}}")).unwrap();
        fs::rename(new, self.control()).unwrap();
    }

    /// How many snapshots there are on disk, known to the driver or not.
    pub fn snapshots_on_disk(&self) -> usize {
        fs::read_dir(self.pool().join("snapshots")).unwrap().count()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Where the files of a volume are.
    pub fn volume(&self, id: &str) -> PathBuf {
        self.pool().join("volumes").join(id)
    }

    /// Where the files of a snapshot are.
    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.pool().join("snapshots").join(id)
    }

    pub async fn channel(&self) -> Channel {
        connect(&self.socket()).await
    }

    pub async fn controller(&self) -> Controller {
        Controller(ControllerClient::new(self.channel().await))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let ours: Vec<_> = targets
            .filter(|t| Path::new(t).starts_with(self.folder.path()))
            .collect();
        for target in ours.iter().rev() {
            let _ = Command::new("umount").arg(target).status();
        }
    }
}

/// The Controller service with the fields that tests vary.
pub struct Controller(pub ControllerClient<Channel>);

impl Controller {
    pub async fn volume(
        &mut self,
        name: &str,
        source: Option<VolumeContentSource>,
    ) -> Result<Volume, Status> {
        let request = CreateVolumeRequest {
            name: name.to_owned(),
            volume_capabilities: vec![writer()],
            volume_content_source: source,
            ..Default::default()
        };
        self.0
            .create_volume(request)
            .await
            .map(|reply| reply.into_inner().volume.unwrap())
    }

    pub async fn snapshot(&mut self, name: &str, volume: &str) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: volume.to_owned(),
            ..Default::default()
        };
        self.0
            .create_snapshot(request)
            .await
            .map(|reply| reply.into_inner().snapshot.unwrap())
    }
}

/// A file system, written by one node.
pub fn writer() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter.into(),
        }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

pub async fn connect(socket: &Path) -> Channel {
    let address = format!("unix://{}", socket.display());
    Endpoint::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// Waits for the condition, for a bounded time.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < DEADLINE, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "failed to run {command:?}: {error}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn accepts(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
