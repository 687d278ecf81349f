//! Index entries of segments that a writer put and did not live to enter. The slot has such segments shipped again; where
//! it is gone, or was left on another member, shipping begins behind them.

use super::Shipper;
use crate::{
    agent::wal::{buffer::Buffer, error::Error, segment::OnDamage},
    postgres::SegmentName,
};

/// More than a writer has on its way.
const MOST: usize = 64;

impl Shipper {
    /// Enters those before the first segment to ship that PostgreSQL still has. What it has not remains as it is: it can
    /// be restored, and nobody knows the times in it.
    pub(super) async fn enter(&mut self) -> Result<(), Error> {
        for name in self.not_entered().await? {
            let size = self.route.size;
            let Some(buffer) = Buffer::finished(&self.route.client, size, name).await? else {
                continue;
            };
            let bytes = buffer.into_bytes();
            let sent = self
                .sender
                .segment(&self.route, name, bytes, OnDamage::Refuse);
            match sent.await {
                Ok(_) => tracing::info!(%name, "its index entry was missing"),
                Err(Error::Damaged(damage)) => tracing::warn!("{damage}"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn not_entered(&self) -> Result<Vec<SegmentName>, Error> {
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
