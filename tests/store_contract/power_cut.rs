//! What a directory has acknowledged survives a power cut: the disk, as it is at that moment, is copied, and its file system
//! mounted again from what had reached it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, local::LocalFileSystem};

use crate::{
    archive, directory_store,
    suite::{identity, lineage_id, push},
};

/// Room for the journal and some segments.
const BYTES: u64 = 96 << 20;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// A disk that is a file, with a file system that is mounted.
struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    fn new(place: &Path) -> Self {
        let image = place.join("disk");
        fs::File::create(&image).unwrap().set_len(BYTES).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        Self::mount(image, place.join("mounted"))
    }

    fn mount(image: PathBuf, folder: PathBuf) -> Self {
        fs::create_dir(&folder).unwrap();
        let (from, to) = (image.to_str().unwrap(), folder.to_str().unwrap());
        run("mount", &["-o", "loop", from, to]);
        Self { image, folder }
    }

    /// What had reached the disk by now, after a start. What the file system still holds in memory is not in the file.
    fn after_a_power_cut(&self, place: &Path) -> Self {
        fs::create_dir(place).unwrap();
        let copy = place.join("disk");
        fs::copy(&self.image, &copy).unwrap();
        Self::mount(copy, place.join("mounted"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let folder = self.folder.to_str().unwrap();
        let _ = Command::new("umount").args(["--lazy", folder]).status();
    }
}

async fn objects(store: &dyn ObjectStore) -> BTreeMap<String, Vec<u8>> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut objects = BTreeMap::new();
    for object in listed {
        let found = store.get(&object.location).await.unwrap();
        let bytes = found.bytes().await.unwrap();
        objects.insert(object.location.to_string(), bytes.to_vec());
    }
    objects
}

/// Objects that were acknowledged and are not there, or not the same, after power cuts right after each of some pushes.
async fn lost(open: fn(&Path) -> Arc<dyn ObjectStore>) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::new(place.path());
    let store = open(&disk.folder);
    let lineage = archive(store.clone()).lineage(lineage_id("0123456789"));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    let mut lost = Vec::new();
    for number in 1..4 {
        push(&lineage, number, 0).await.unwrap();
        let after = disk.after_a_power_cut(&place.path().join(number.to_string()));
        let (before, found) = (
            objects(&*store).await,
            objects(&*directory_store(&after.folder)).await,
        );
        assert!(before.len() > 2 * number as usize, "{:?}", before.keys());
        let missing = before
            .into_iter()
            .filter(|(name, bytes)| found.get(name) != Some(bytes));
        lost.extend(missing.map(|(name, _)| name));
    }
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_directory_acknowledged_survives() {
    assert_eq!(lost(directory_store).await, Vec::<String>::new());
}

/// The control: without fsync it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_fsynced_does_not() {
    let without = |folder: &Path| -> Arc<dyn ObjectStore> {
        Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap())
    };
    assert!(lost(without).await.len() > 2);
}
