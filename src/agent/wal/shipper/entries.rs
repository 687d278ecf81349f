//! Index entries of segments that a writer put and did not live to enter. The slot has such segments shipped again; where
//! it is gone, or was left on another member, shipping begins behind them. A repair: what fails here fails nothing else.

use super::Shipper;
use crate::{
    agent::wal::{buffer::Buffer, error::Error, route::Notice, segment::Sender},
    postgres::SegmentName,
};

/// More than an agent has on its way.
const MOST: usize = 64;

impl Shipper {
    /// Enters one of those before the first segment to ship, the newest first. Without an entry a segment can be restored,
    /// and nobody knows the times in it, nor whether it can be replayed to its end.
    pub(super) async fn enter(&mut self) {
        if self.not_entered.is_none() {
            let found = self.find_not_entered().await;
            self.not_entered = Some(found.unwrap_or_else(|error| {
                tracing::warn!(%error, "failed to look for segments without an index entry");
                Vec::new()
            }));
        }
        let Some(name) = self.not_entered.as_mut().and_then(Vec::pop) else {
            return;
        };
        if let Err(error) = self.enter_one(name).await {
            tracing::warn!(%name, %error, "failed to put a missing index entry");
        }
    }

    async fn enter_one(&self, name: SegmentName) -> Result<(), Error> {
        let (route, size) = (&self.route, self.route.size);
        let Some(buffer) = Buffer::finished(&route.client, size, name).await? else {
            return Ok(());
        };
        let mut sender = Sender::new(String::new());
        let (entry, damage) = sender.entry(route, name, buffer.into_bytes()).await?;
        let archived = route.lineage.hashes_of(name).await?;
        if archived.is_empty() || archived.iter().any(|hash| *hash != entry.sha256) {
            tracing::warn!(%name, ?archived, ours = entry.sha256, "its index entry is missing, and what is archived is not known to be the database's");
            return Ok(());
        }
        route.lineage.enter_segment(&entry).await?;
        tracing::info!(%name, "its index entry was missing");
        if let Some(damage) = damage {
            self.signals.tell(Notice::Damaged(damage));
        }
        Ok(())
    }

    /// Oldest first.
    async fn find_not_entered(&self) -> Result<Vec<SegmentName>, Error> {
        let (lineage, size) = (&self.route.lineage, self.route.size);
        let contents = lineage.contents_again().await?;
        let unread = contents.segments.iter().rev().filter(|(name, segment)| {
            segment.records.is_none()
                && name.end(size) <= self.position.segment
                && self.route.path.segment(name.start(size), size) == **name
        });
        let mut found = Vec::new();
        for (name, _) in unread.take(MOST) {
            if !lineage.has_entry(*name).await? {
                found.push(*name);
            }
        }
        found.reverse();
        Ok(found)
    }
}
