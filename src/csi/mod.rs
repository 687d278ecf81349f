//! VolumeSnapshots: types, and what they say.
