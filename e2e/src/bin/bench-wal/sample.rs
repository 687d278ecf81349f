//! The WAL that is pushed: written by a real PostgreSQL, kept from run to run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{cluster::Cluster, scratch};

/// 16 MiB.
pub const SEGMENT: u64 = 16 << 20;
/// Raised when the WAL is made differently.
const FORMAT: u32 = 1;
const SCALE: &str = "30";
/// Of the socket only: it listens nowhere else.
const PORT: u16 = 5432;
/// Transactions of each client between two checkpoints: after one, the first change of each page logs the page.
const TRANSACTIONS: &str = "1000";

/// What WAL holds.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// pgbench's: whole pages, which compress well.
    Pages,
    /// Rows of random bytes, which do not compress.
    Random,
}

impl Kind {
    /// For tables and folders.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pages => "pages",
            Self::Random => "random",
        }
    }
}

/// Segments of one kind and what a data directory must have beside them.
#[derive(Clone, Debug)]
pub struct Sample {
    folder: PathBuf,
    kind: Kind,
    /// The first names, in order.
    pub segments: Vec<String>,
}

impl Sample {
    /// The first `count` segments of the samples in `folder`, which are written first if they are not there.
    ///
    /// # Errors
    /// PostgreSQL's, the file system's.
    pub fn of(kind: Kind, count: usize, folder: &Path, programs: &Path) -> Result<Self> {
        let folder = folder.join(format!("wal-{FORMAT}-{count}"));
        if !folder.join(".finished").exists() {
            println!("writing {count} segments of each kind of WAL");
            write(&folder, count, programs)?;
        }
        let mut segments = scratch::names(&folder.join(kind.name()), scratch::is_segment)?;
        segments.truncate(count);
        Ok(Self {
            folder,
            kind,
            segments,
        })
    }

    /// Where a segment lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(self.kind.name()).join(name)
    }

    /// A data directory as far as a tool looks at it. Segments are hard links: no tool writes to them, and 800 MB on their
    /// way to the disk would disturb what is measured.
    ///
    /// # Errors
    /// The file system's.
    pub fn data_directory(&self, pgdata: &Path, ready: &[String]) -> Result<()> {
        let status = pgdata.join("pg_wal/archive_status");
        scratch::empty(pgdata)?;
        fs::create_dir_all(&status)?;
        fs::create_dir(pgdata.join("global"))?;
        for file in ["PG_VERSION", "global/pg_control"] {
            fs::copy(self.folder.join("cluster").join(file), pgdata.join(file))?;
        }
        for name in ready {
            let linked = fs::hard_link(self.path(name), pgdata.join("pg_wal").join(name));
            linked.with_context(|| {
                format!("failed to link {name}: is the scratch folder on another file system?")
            })?;
            scratch::write(&status.join(format!("{name}.ready")), "")?;
        }
        Ok(())
    }

    /// Reads all of it once, so that no tool waits for the disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn warm(&self, names: &[String]) -> Result<()> {
        for name in names {
            scratch::read(&self.path(name))?;
        }
        Ok(())
    }
}

/// A cluster that archives nothing, so that all WAL stays.
struct Source(Cluster);

impl Source {
    fn start(&self) -> Result<()> {
        self.0.init(
            &[],
            "fsync = off\narchive_mode = on\narchive_command = '/bin/false'\nautovacuum = off\n\
             max_wal_size = 4GB\nshared_buffers = 512MB\n",
        )?;
        self.0.start()
    }

    /// The first segment that begins from now on.
    fn next_segment(&self) -> Result<String> {
        self.0.sql("SELECT pg_switch_wal()")?;
        self.0
            .sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn() + 1)")
    }

    fn written_since(&self, first: &str) -> Result<Vec<String>> {
        let status = self.0.root.join("data/pg_wal/archive_status");
        let ready = scratch::names(&status, |name| name.ends_with(".ready"))?;
        let names = ready
            .iter()
            .map(|name| name.trim_end_matches(".ready").to_owned());
        Ok(names
            .filter(|name| scratch::is_segment(name) && name.as_str() >= first)
            .collect())
    }

    /// Lets `write` write until there are `count` segments, and moves them to `to`.
    fn segments(&self, count: usize, to: &Path, write: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let first = self.next_segment()?;
        let mut names = Vec::new();
        while names.len() < count {
            write(self)?;
            names = self.written_since(&first)?;
        }
        fs::create_dir(to)?;
        for name in &names[..count] {
            fs::rename(self.0.root.join("data/pg_wal").join(name), to.join(name))?;
        }
        Ok(())
    }
}

fn write(folder: &Path, count: usize, programs: &Path) -> Result<()> {
    scratch::empty(folder)?;
    let source = Source(Cluster::new(programs, &folder.join("scratch"), PORT)?);
    source.start()?;
    let written = write_kinds(&source, folder, count);
    let stopped = source.0.stop();
    written?;
    stopped?;
    fs::create_dir_all(folder.join("cluster/global"))?;
    for file in ["PG_VERSION", "global/pg_control"] {
        fs::copy(
            source.0.root.join("data").join(file),
            folder.join("cluster").join(file),
        )?;
    }
    scratch::remove(&source.0.root)?;
    scratch::write(&folder.join(".finished"), "")
}

fn write_kinds(source: &Source, folder: &Path, count: usize) -> Result<()> {
    source.0.run("pgbench", &["-q", "-i", "-s", SCALE])?;
    source.segments(count, &folder.join(Kind::Pages.name()), |source| {
        source.0.sql("CHECKPOINT")?;
        source
            .0
            .run("pgbench", &["-n", "-c", "4", "-t", TRANSACTIONS])
            .map(drop)
    })?;
    source
        .0
        .sql("CREATE TABLE load (b bytea); ALTER TABLE load ALTER b SET STORAGE EXTERNAL")?;
    source.segments(count, &folder.join(Kind::Random.name()), |source| {
        let rows = "INSERT INTO load SELECT decode(string_agg(md5(random()::text), ''), 'hex') \
                    FROM generate_series(1, 4096) n, generate_series(1, 500) m GROUP BY n";
        source.0.sql(rows).map(drop)
    })
}
