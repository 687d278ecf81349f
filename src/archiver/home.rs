//! Which lineage a cluster's WAL belongs to: the one in the configuration, the only one of this cluster, or a new one.

use std::time::{Duration, Instant};

use futures::FutureExt;

use super::{
    Config,
    state::{Remembered, State},
};
use crate::{
    archive::{Archive, FORMAT, Identity, Lineage, LineageId, PushError, ReadError},
    clock::{Clock, SystemClock},
    postgres::{SystemIdentifier, wal::Origin},
};

/// How long a push waits to hear what the store is like.
const PROBE: Duration = Duration::from_secs(10);
/// How long it is believed what was asked before the first push.
const EARLY: Duration = Duration::from_secs(60);

/// A lineage and whose it is.
#[derive(Debug)]
pub struct Home {
    /// It.
    pub lineage: Lineage,
    /// What its identity object says.
    pub identity: Identity,
}

/// What the store says of a lineage before anybody pushes: the first push has fewer answers to wait for.
#[derive(Debug)]
pub struct Early {
    lineage: Lineage,
    /// `None`: it is not begun yet.
    identity: Option<Identity>,
    at: Instant,
}

impl Early {
    /// If it is of the lineage `id`, and not old.
    fn of(&self, id: &LineageId) -> Option<&Self> {
        (self.lineage.id() == id && self.at.elapsed() < EARLY).then_some(self)
    }
}

/// Why no lineage can be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The store does not say.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A new one cannot be begun.
    #[error(transparent)]
    Create(PushError),
    /// The one in the configuration is another cluster's.
    #[error(
        "lineage {lineage} in {place} is of cluster {theirs}, this one is {ours}: correct lineage in the configuration, or leave it out"
    )]
    OtherCluster {
        /// The lineage.
        lineage: LineageId,
        /// The database in the archive.
        place: String,
        /// Whose it is.
        theirs: SystemIdentifier,
        /// Who asks.
        ours: SystemIdentifier,
    },
    /// More than one.
    #[error("{place} holds several lineages of this cluster: {}: set lineage in the configuration to one of them", names.join(", "))]
    Several {
        /// The database in the archive.
        place: String,
        /// Which.
        names: Vec<String>,
    },
    /// A newer program began it.
    #[error(
        "lineage {lineage} is of format {format}, this program knows up to {FORMAT}: use a newer one"
    )]
    Newer {
        /// The lineage.
        lineage: LineageId,
        /// Its format.
        format: u32,
    },
    /// None to fetch from.
    #[error(
        "{place} holds no lineage of cluster {cluster}: check archiveName, prefix and lineage in the configuration"
    )]
    None {
        /// The database in the archive.
        place: String,
        /// Which cluster.
        cluster: SystemIdentifier,
    },
    /// Nobody says which cluster this is.
    #[error(
        "failed to read global/pg_control, which says which cluster this is: run this in the data directory, or set lineage in the configuration"
    )]
    Unknown,
}

/// Finds lineages, and begins them.
#[derive(Debug)]
pub struct Homes<'a> {
    archive: &'a Archive,
    config: &'a Config,
    state: State,
    early: Option<&'a Early>,
}

impl<'a> Homes<'a> {
    /// In `archive`, as `config` says.
    pub fn new(archive: &'a Archive, config: &'a Config) -> Self {
        Self {
            archive,
            config,
            state: State::of(config),
            early: None,
        }
    }

    /// With what was asked early.
    #[must_use]
    pub fn with_early(self, early: Option<&'a Early>) -> Self {
        Self { early, ..self }
    }

    /// Asks for the lineage in the configuration, or else the one that is remembered, whosever it will turn out to be.
    ///
    /// # Errors
    /// The store does not say.
    pub async fn early(&self) -> Result<Option<Early>, HomeError> {
        let Some(id) = self.config.lineage.clone().or_else(|| self.state.lineage()) else {
            return Ok(None);
        };
        let lineage = self.archive.lineage(id);
        // Kept in the lineage itself: it asks no more.
        let (identity, _) = tokio::join!(lineage.identity(), lineage.has_tails());
        let identity = match identity {
            Ok(identity) => Some(identity),
            Err(ReadError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Early {
            lineage,
            identity,
            at: Instant::now(),
        }))
    }

    /// The lineage of `origin`, to write to. One that is not there begins. `creates_only`: whether the store heeds the
    /// condition that an object be new, if that is not remembered.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub async fn to_write(
        &self,
        origin: Origin,
        creates_only: impl Future<Output = Option<bool>>,
    ) -> Result<Home, HomeError> {
        let remembered = self.state.read(origin.system_identifier);
        let creates_only = async {
            match remembered.as_ref().and_then(|known| known.creates_only) {
                Some(known) => Some(known),
                None => creates_only.await,
            }
        };
        // Each takes several requests, one after the other.
        let creates_only = tokio::time::timeout(PROBE, creates_only);
        let (found, creates_only) = tokio::try_join!(
            self.ready(remembered.as_ref(), origin),
            creates_only.map(|said| Ok(said.ok().flatten())),
        )?;
        let (home, no_tails) = found;
        match creates_only {
            Some(true) => {}
            Some(false) => self.archive.look_first(),
            None => self.archive.look_first_until_probed(),
        }
        let now = Remembered {
            place: self.state.place().to_owned(),
            system_identifier: home.identity.system_identifier,
            lineage: home.identity.lineage.clone(),
            creates_only,
            no_tails,
        };
        if remembered.as_ref() != Some(&now) {
            self.state.write(&now);
        }
        Ok(home)
    }

    /// The lineage, and whether it has no tails.
    async fn ready(
        &self,
        remembered: Option<&Remembered>,
        origin: Origin,
    ) -> Result<(Home, bool), HomeError> {
        let home = match self.known(remembered, origin).await? {
            Some(home) => home,
            None => match self.found(origin.system_identifier).await? {
                Some(home) => home,
                None => self.begin(origin, None).await?,
            },
        };
        if home.identity.format > FORMAT {
            return Err(HomeError::Newer {
                lineage: home.identity.lineage,
                format: home.identity.format,
            });
        }
        let same = remembered.filter(|known| known.lineage == home.identity.lineage);
        let no_tails = match same {
            Some(known) if known.no_tails => {
                home.lineage.assume_no_tails().await;
                true
            }
            Some(_) | None => !home.lineage.has_tails().await?,
        };
        Ok((home, no_tails))
    }

    /// The lineage to read from, if it is in the configuration or remembered: nothing is asked.
    ///
    /// # Errors
    /// Nobody says which cluster this is.
    pub fn to_read(&self, cluster: Option<SystemIdentifier>) -> Result<Option<Lineage>, HomeError> {
        if let Some(id) = &self.config.lineage {
            return Ok(Some(self.archive.lineage(id.clone())));
        }
        let known = self.state.read(cluster.ok_or(HomeError::Unknown)?);
        Ok(known.map(|known| self.archive.lineage(known.lineage)))
    }

    /// Whether a lineage from [`Self::to_read`] is to be believed when it says that something is not there.
    ///
    /// # Errors
    /// The store does not say.
    pub async fn is_of(
        &self,
        lineage: &Lineage,
        cluster: Option<SystemIdentifier>,
    ) -> Result<bool, HomeError> {
        match lineage.identity().await {
            Ok(identity) => Ok(cluster.is_none_or(|ours| identity.system_identifier == ours)),
            Err(ReadError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// There is no lineage of this cluster.
    pub fn none(&self, cluster: Option<SystemIdentifier>) -> HomeError {
        cluster.map_or(HomeError::Unknown, |cluster| HomeError::None {
            place: self.state.place().to_owned(),
            cluster,
        })
    }

    /// The lineage to read from, looked for and remembered.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub async fn look_for(&self, cluster: Option<SystemIdentifier>) -> Result<Lineage, HomeError> {
        let known = cluster.ok_or(HomeError::Unknown)?;
        let home = self.found(known).await?;
        let home = home.ok_or_else(|| self.none(cluster))?;
        self.state.write(&Remembered {
            place: self.state.place().to_owned(),
            system_identifier: known,
            lineage: home.identity.lineage.clone(),
            // Not looked at: a push will.
            creates_only: None,
            no_tails: false,
        });
        Ok(home.lineage)
    }

    /// The lineage in the configuration, or the one that is remembered if it is still this cluster's.
    async fn known(
        &self,
        remembered: Option<&Remembered>,
        origin: Origin,
    ) -> Result<Option<Home>, HomeError> {
        let ours = origin.system_identifier;
        if let Some(id) = &self.config.lineage {
            let Some(home) = self.identified(id).await? else {
                return self.begin(origin, Some(id)).await.map(Some);
            };
            let theirs = home.identity.system_identifier;
            return match theirs == ours {
                true => Ok(Some(home)),
                false => Err(HomeError::OtherCluster {
                    lineage: id.clone(),
                    place: self.state.place().to_owned(),
                    theirs,
                    ours,
                }),
            };
        }
        let Some(Remembered { lineage, .. }) = remembered else {
            return Ok(None);
        };
        let home = self.identified(lineage).await?;
        Ok(home.filter(|home| home.identity.system_identifier == ours))
    }

    async fn identified(&self, id: &LineageId) -> Result<Option<Home>, HomeError> {
        let lineage = self.archive.lineage(id.clone());
        if let Some(early) = self.early.and_then(|early| early.of(id)) {
            let identity = early.identity.clone();
            return Ok(identity.map(|identity| Home { lineage, identity }));
        }
        if self.early.is_some() {
            lineage.forget_tails().await;
        }
        match lineage.identity().await {
            Ok(identity) => Ok(Some(Home { lineage, identity })),
            Err(ReadError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The only lineage of a cluster.
    async fn found(&self, cluster: SystemIdentifier) -> Result<Option<Home>, HomeError> {
        let mut all = self.archive.lineages().await?;
        all.retain(|identity| identity.system_identifier == cluster);
        if all.len() > 1 {
            return Err(HomeError::Several {
                place: self.state.place().to_owned(),
                names: all.iter().map(|found| found.lineage.to_string()).collect(),
            });
        }
        Ok(all.pop().map(|identity| Home {
            lineage: self.archive.lineage(identity.lineage.clone()),
            identity,
        }))
    }

    /// The identity object before everything else. Whoever else begins the same lineage at this moment is this cluster too.
    async fn begin(&self, origin: Origin, id: Option<&LineageId>) -> Result<Home, HomeError> {
        let Origin {
            system_identifier,
            segment_size,
            major,
        } = origin;
        let id = id.cloned();
        let id = id.unwrap_or_else(|| LineageId::of_cluster(system_identifier));
        let lineage = self.archive.lineage(id.clone());
        let identity = Identity {
            format: FORMAT,
            lineage: id,
            system_identifier,
            major_version: i32::try_from(major).unwrap_or_default(),
            segment_size,
            created_at: SystemClock.now(),
        };
        match lineage.create_identity(&identity).await {
            Ok(()) => {
                // The identity object comes before everything else.
                lineage.assume_no_tails().await;
                tracing::info!(lineage = %identity.lineage, place = self.state.place(), "a lineage begins");
                Ok(Home { lineage, identity })
            }
            Err(PushError::Conflict { .. }) => {
                let identity = lineage.identity().await?;
                Ok(Home { lineage, identity })
            }
            Err(error) => Err(HomeError::Create(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::postgres::SegmentSize;

    const ORIGIN: Origin = Origin {
        system_identifier: SystemIdentifier::new(42),
        segment_size: SegmentSize::DEFAULT,
        major: 15,
    };

    /// A directory as an archive, and the configuration of a push to it.
    fn site() -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::create_dir(folder.path().join("archive")).unwrap();
        let config = json!({
            "archive": {"directory": {"persistentVolumeClaim": "wal"}},
            "archiveName": "orders",
            "directory": folder.path().join("archive"),
            "stateDirectory": state,
            "lineage": "0123456789",
        });
        (folder, serde_json::from_value(config).unwrap())
    }

    async fn to_write(homes: &Homes<'_>) -> Home {
        homes.to_write(ORIGIN, async { Some(true) }).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_asked_early_is_not_asked_again_until_it_is_old() {
        let (folder, config) = site();
        let archive = config.open().unwrap();
        let begun = to_write(&Homes::new(&archive, &config)).await;
        let mut early = Homes::new(&archive, &config).early().await.unwrap();
        assert!(early.as_ref().unwrap().identity.is_some());
        let place = folder.path().join("archive");
        std::fs::remove_dir_all(&place).unwrap();
        let homes = Homes::new(&archive, &config).with_early(early.as_ref());
        assert_eq!(to_write(&homes).await.identity, begun.identity);
        assert!(!place.exists(), "nobody was asked");

        early.as_mut().unwrap().at -= EARLY;
        let homes = Homes::new(&archive, &config).with_early(early.as_ref());
        to_write(&homes).await;
        assert!(place.exists(), "it begins anew");
    }

    #[tokio::test]
    async fn a_lineage_that_somebody_began_meanwhile_is_used() {
        let (_folder, config) = site();
        let archive = config.open().unwrap();
        let early = Homes::new(&archive, &config).early().await.unwrap();
        assert!(early.as_ref().unwrap().identity.is_none());
        let begun = to_write(&Homes::new(&config.open().unwrap(), &config)).await;
        let homes = Homes::new(&archive, &config).with_early(early.as_ref());
        assert_eq!(to_write(&homes).await.identity, begun.identity);
    }
}
