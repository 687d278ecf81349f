//! The runbooks list every reason that a condition, an Event or a number may have: every CamelCase word that the product's
//! source has as a literal is in a table of `docs/runbooks/README.md`, or here, among those that are no reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::committed;

/// Words that are no reason, by the file or folder below `src` that has them.
const NO_REASON: [(&str, &str); 16] = [
    // A policy of a StatefulSet for its claims.
    ("controller/restore/in_place/door.rs", "Delete"),
    // Kinds and their columns.
    (
        "api/archive.rs",
        "Age CreateOnly PgArchive PgArchiveStatus Reason Store",
    ),
    (
        "api/backup.rs",
        "Age Attempt PgBackup PgBackupStatus Protection Reason Start Stop StoppedAt Timeline",
    ),
    (
        "api/backup_policy.rs",
        "Age Archive PgBackupPolicy Schedules SnapshotClass",
    ),
    (
        "api/protection.rs",
        "Age From LagBytes LastBackup Lineage Message PgProtection PgProtectionStatus Policy Safe StatefulSet To \
         Transport Verified Why",
    ),
    (
        "api/restore.rs",
        "Age Backup Into PgRestore PgRestoreStatus Reason Replayed Target Timeline",
    ),
    // Types and values of conditions.
    (
        "api/conditions.rs",
        "Accepted Active ClockInStep CreateOnly Discarded False Safe Scheduled Session SlotWithinCeiling SlotsDropped True \
         Unknown VolumesReady WalArchived WalArchiving WithinRetention",
    ),
    // Types of fields, their values, and units.
    (
        "api/target.rs",
        "Current Latest TargetTime TargetTimeline TargetXid",
    ),
    ("api/duration.rs", "DurationText String"),
    ("api/size.rs", "Gi Ki Mi SizeText String Ti"),
    ("archive/lineage.rs", "LineageId String"),
    ("postgres", "Lsn String SystemIdentifier TimelineId"),
    // What stores say, and where in their answers.
    (
        "archive/error.rs",
        "AccountIsDisabled AccountProblem AllAccessDisabled AuthenticationFailed \
         AuthenticationRequired AuthorizationFailure AuthorizationPermissionMismatch \
         AuthorizationProtocolMismatch AuthorizationResourceTypeMismatch \
         AuthorizationServiceMismatch AuthorizationSourceIPMismatch Code ContainerBeingDeleted \
         ContainerDisabled ExpiredToken ExpiredTokenException InsufficientAccountPermissions \
         InvalidAccessKeyId InvalidAuthenticationInfo InvalidIdentityToken InvalidSecurity \
         InvalidToken KeyBasedAuthenticationNotPermitted Message NoAuthenticationInformation \
         NoSuchBucket PublicAccessNotPermitted RequestExpired RequestTimeTooSkewed \
         SignatureDoesNotMatch UserProjectAccountProblem XAdminUserNotFound",
    ),
    // Kubernetes' own words.
    (
        "csi",
        "PartialEq VolumeGroupSnapshot VolumeGroupSnapshotClass VolumeGroupSnapshotContent \
         VolumeGroupSnapshotContentStatus VolumeGroupSnapshotStatus VolumeSnapshot \
         VolumeSnapshotClass VolumeSnapshotContent VolumeSnapshotContentStatus \
         VolumeSnapshotStatus",
    ),
    (
        "controller",
        "Always Block ClusterRole ConfigMap ContainerCreating CrashLoopBackOff \
         CreateContainerConfigError CreateContainerError Deployment DoesNotExist Ei \
         ErrImageNeverPull ErrImagePull Exists \
         FallbackToLogsOnError False Filesystem Gi IfNotPresent ImagePullBackOff In \
         InvalidImageName Ki Memory Mi Never NoExecute None NotIn OnFailure PersistentVolumeClaim \
         PgArchive PgBackup PgBackupPolicy PgProtection PgRestore Pi Pod PodInitializing \
         PodScheduled ReadWriteOnce Reconcile Recreate ReplicaFailure Retain RoleBinding \
         RunContainerError Running RuntimeDefault Secret Service ServiceAccount StatefulSet Succeeded Ti \
         True VolumeSnapshot VolumeSnapshotClass VolumeSnapshotContent",
    ),
    // Told to nobody: another try goes on.
    ("recovery/error.rs", "Terminated"),
];

/// The product's part of one source file.
#[derive(Default)]
struct Product<'a> {
    /// Its lines, with their numbers.
    lines: Vec<(usize, &'a str)>,
    /// Files and folders of its modules that only tests have.
    tests: Vec<PathBuf>,
}

impl<'a> Product<'a> {
    fn of(path: &Path, text: &'a str) -> Self {
        let mut product = Self::default();
        let (mut for_tests, mut in_tests, mut elsewhere) = (false, false, None);
        for (number, line) in text.lines().enumerate() {
            if in_tests {
                in_tests = line != "}";
            } else if line == "#[cfg(test)]" {
                (for_tests, elsewhere) = (true, None);
            } else if for_tests && line.starts_with("#[path = ") {
                elsewhere = line.split('"').nth(1);
            } else if let Some(module) = module(line).filter(|_| for_tests) {
                for_tests = false;
                in_tests = line.ends_with('{');
                if !in_tests {
                    product.tests.extend(files(path, module, elsewhere));
                }
            } else {
                for_tests &= line.starts_with("#[");
                product.lines.push((number + 1, line));
            }
        }
        product
    }

    /// Literals that may be a reason: one word in CamelCase.
    fn words(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let code = self.lines.iter();
        let code = code.filter(|(_, line)| !line.trim_start().starts_with("//"));
        code.flat_map(|(number, line)| {
            let parts: Vec<&str> = line.split('"').collect();
            let inner = parts.len().saturating_sub(1);
            let literals = parts.into_iter().take(inner).skip(1);
            literals
                .filter(|word| is_camel_case(word))
                .map(|word| (*number, word))
        })
    }
}

fn is_camel_case(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.contains(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The name of the module that `line` begins or names.
fn module(line: &str) -> Option<&str> {
    let name = line.split_once("mod ")?.1;
    name.strip_suffix(" {").or_else(|| name.strip_suffix(';'))
}

/// Where the module `name` of the file at `path` may lie.
fn files(path: &Path, name: &str, elsewhere: Option<&str>) -> Vec<PathBuf> {
    let folder = path.parent().unwrap();
    if let Some(elsewhere) = elsewhere {
        let file = folder.join(elsewhere);
        return match file.ends_with("mod.rs") {
            true => vec![file.parent().unwrap().to_owned()],
            false => vec![file],
        };
    }
    let stem = path.file_stem().unwrap();
    let own = ["mod", "lib", "main"].iter().any(|root| stem == *root);
    let folder = match own {
        true => folder.to_owned(),
        false => folder.join(stem),
    };
    vec![folder.join(name), folder.join(format!("{name}.rs"))]
}

fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every word that may be a reason, with the files that have it and the line.
fn in_source() -> BTreeMap<String, Vec<(PathBuf, usize)>> {
    let root = committed("src");
    let mut paths = Vec::new();
    source_files(&root, &mut paths);
    let texts: Vec<String> = paths
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let products = paths
        .iter()
        .zip(&texts)
        .map(|(path, text)| (path, Product::of(path, text)));
    let products: Vec<_> = products.collect();
    let tests: BTreeSet<&PathBuf> = products
        .iter()
        .flat_map(|(_, product)| &product.tests)
        .collect();
    let mut words: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (path, product) in &products {
        if path
            .ancestors()
            .any(|part| tests.contains(&part.to_owned()))
        {
            continue;
        }
        let below = path.strip_prefix(&root).unwrap();
        for (number, word) in product.words() {
            let places = words.entry(word.to_owned()).or_default();
            places.push((below.to_owned(), number));
        }
    }
    words
}

/// The words in the first column of a page's tables.
fn listed(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.collect()
}

fn is_excused(word: &str, file: &Path) -> bool {
    let of_file = NO_REASON
        .iter()
        .filter(|(place, _)| file.starts_with(place));
    of_file
        .flat_map(|(_, words)| words.split(' '))
        .any(|excused| excused == word)
}

#[test]
fn the_runbooks_list_every_reason_and_no_other() {
    let page = fs::read_to_string(committed("docs/runbooks/README.md")).unwrap();
    let (listed, words) = (listed(&page), in_source());
    let mut missing = Vec::new();
    let mut said = BTreeSet::new();
    for (word, places) in &words {
        for (file, line) in places.iter().filter(|(file, _)| !is_excused(word, file)) {
            said.insert(word.as_str());
            if !listed.contains(word.as_str()) {
                missing.push(format!("{word} (src/{}:{line})", file.display()));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "docs/runbooks/README.md does not say what to do about {missing:#?}; what is no reason belongs into NO_REASON"
    );
    let invented: Vec<_> = listed.difference(&said).collect();
    assert!(invented.is_empty(), "nothing in src says {invented:?}");
    // The scan itself: where it finds little, it proves little.
    assert!(said.len() > 150, "found {} reasons only", said.len());
}

#[test]
fn what_is_excused_is_there() {
    let words = in_source();
    let mut gone = Vec::new();
    for (place, excused) in NO_REASON {
        for word in excused.split(' ') {
            let places = words.get(word).into_iter().flatten();
            if !places.into_iter().any(|(file, _)| file.starts_with(place)) {
                gone.push(format!("{place}: {word}"));
            }
        }
    }
    assert!(
        gone.is_empty(),
        "NO_REASON has what is not there: {gone:#?}"
    );
}

#[test]
fn reasons_are_found_and_what_tests_say_is_not() {
    let text = "fn reason() -> &'static str {\n    \"DiskOnFire\"\n}\n// \"Comment\"\n#[cfg(test)]\n#[path = \"fire_tests.rs\"]\n\
                mod tests;\n#[cfg(test)]\nmod model;\n#[cfg(test)]\nmod inner {\n    const A: &str = \"Planted\";\n}\nconst B: [&str; 2] = \
                [\"Again\", \"not one\"];\n";
    let product = Product::of(Path::new("src/disk/fire.rs"), text);
    let words: Vec<_> = product.words().collect();
    assert_eq!(words, [(2, "DiskOnFire"), (14, "Again")]);
    let tests = [
        "src/disk/fire_tests.rs",
        "src/disk/fire/model",
        "src/disk/fire/model.rs",
    ];
    assert_eq!(product.tests, tests.map(PathBuf::from));
    let page = "| reason |\n|---|\n| `DiskOnFire`, `Again` | `Elsewhere` | run |\nIn a sentence: `Sentence`.\n";
    assert_eq!(listed(page), BTreeSet::from(["Again", "DiskOnFire"]));
}
