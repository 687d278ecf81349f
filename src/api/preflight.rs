//! What the agent finds out of the primary before a backup: facts alone; what they mean the controller says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the primary has left of what a backup needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// Since when it is so. It is looked at every ten seconds, and written when it changes.
    pub observed_at: MicroTime,
    /// The pod that was asked.
    pub pod: String,
    /// PostgreSQL's setting `wal_level`.
    pub wal_level: String,
    /// Whether Highwater's own replication slot is one of those in use.
    pub holds_slot: bool,
    /// `max_replication_slots`.
    pub replication_slots: Room,
    /// `max_wal_senders`.
    pub wal_senders: Room,
    /// `max_connections`, without those that are kept for other roles.
    pub connections: Room,
    /// The role's `CONNECTION LIMIT`. Nothing where it has none, or is a superuser's, of whom none is enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_connections: Option<Room>,
    /// That of the database which the agent connects to. Nothing where it has none, or the role is a superuser's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_connections: Option<Room>,
}

/// How much of something is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// How many there may be.
    pub maximum: i32,
    /// How many are left: 3 where it is more, as what nobody misses would change all the time.
    pub free: i32,
}

impl Room {
    /// The most that are counted.
    const ENOUGH: i32 = 3;

    /// Where `used` of `maximum` are in use.
    pub fn new(maximum: i32, used: i32) -> Self {
        let free = maximum.saturating_sub(used).clamp(0, Self::ENOUGH);
        Self { maximum, free }
    }

    /// Whether none is left.
    pub const fn is_full(self) -> bool {
        self.free == 0
    }
}

impl Preflight {
    /// These facts, with the time since when they are known if they are those of `before`.
    #[must_use]
    pub fn since(self, before: Option<&Self>) -> Self {
        match before {
            Some(before) => {
                let observed_at = before.observed_at.clone();
                let known = Self {
                    observed_at,
                    ..self.clone()
                };
                if known == *before { known } else { self }
            }
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn seen(second: i64, used: i32) -> Preflight {
        Preflight {
            observed_at: MicroTime(Timestamp::from_second(second).unwrap()),
            pod: "orders-0".to_owned(),
            wal_level: "replica".to_owned(),
            holds_slot: true,
            replication_slots: Room::new(10, 1),
            wal_senders: Room::new(10, 1),
            connections: Room::new(97, used),
            role_connections: None,
            database_connections: None,
        }
    }

    #[test]
    fn what_is_left_is_counted_while_it_is_little() {
        for (maximum, used, free) in [(10, 0, 3), (10, 7, 3), (10, 9, 1), (10, 10, 0), (0, 0, 0)] {
            let room = Room::new(maximum, used);
            assert_eq!((room.free, room.is_full()), (free, free == 0), "{used}");
        }
        assert!(Room::new(5, 9).is_full(), "it was lowered");
    }

    #[test]
    fn the_time_moves_with_the_facts_alone() {
        let first = seen(1, 20);
        assert_eq!(seen(2, 80).since(Some(&first)), first, "enough is enough");
        assert_eq!(seen(2, 97).since(Some(&first)), seen(2, 97));
        assert_eq!(seen(2, 20).since(None), seen(2, 20));
    }
}
