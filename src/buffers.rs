//! Memory for whole segments, used again and again: a fresh buffer costs a page fault per page, and that is a large part of
//! what a push costs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Buffers that come back when the last reader of their bytes is gone.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Spare>>);

#[derive(Debug, Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    /// What comes back is kept as long as there is work.
    keeps: bool,
    idle: bool,
}

/// Bytes in a borrowed buffer.
struct Borrowed {
    bytes: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.bytes));
    }
}

impl Buffers {
    /// Keeps what comes back until [`Self::free`]. The default keeps nothing.
    pub fn kept() -> Self {
        Self(Arc::new(Mutex::new(Spare {
            keeps: true,
            ..Spare::default()
        })))
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        let mut buffer = self.any();
        buffer.clear();
        buffer
    }

    /// A buffer of `length` bytes, whatever they are: for who overwrites all of them.
    pub fn take_filled(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.any();
        buffer.reserve_exact(length.saturating_sub(buffer.len()));
        // Of one that was used for as many bytes before, nothing is touched.
        buffer.resize(length, 0);
        buffer
    }

    fn any(&self) -> Vec<u8> {
        let mut spare = self.spare();
        spare.idle = false;
        spare.buffers.pop().unwrap_or_default()
    }

    /// Takes back what [`Self::take`] gave.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut spare = self.spare();
        if spare.keeps && !spare.idle {
            spare.buffers.push(buffer);
        }
    }

    /// `bytes` for any number of readers.
    pub fn lend(&self, mut bytes: Vec<u8>) -> Bytes {
        if self.spare().keeps {
            let home = self.clone();
            return Bytes::from_owner(Borrowed { bytes, home });
        }
        bytes.shrink_to_fit();
        bytes.into()
    }

    /// There is no work at the moment: what is spare is freed, and what comes back until the next [`Self::take`].
    pub fn free(&self) {
        let mut spare = self.spare();
        spare.idle = true;
        spare.buffers = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(buffers: &Buffers) -> Bytes {
        let mut buffer = buffers.take();
        buffer.extend_from_slice(&[7; 100]);
        buffers.lend(buffer)
    }

    #[test]
    fn a_buffer_comes_back_with_its_last_reader() {
        let buffers = Buffers::kept();
        let bytes = full(&buffers);
        let (address, other) = (bytes.as_ptr(), bytes.clone());
        drop(bytes);
        assert_eq!(buffers.take().capacity(), 0, "somebody still reads");
        drop(other);
        let again = buffers.take();
        assert_eq!(again.as_ptr(), address);
        assert!(again.is_empty() && again.capacity() >= 100);
    }

    #[test]
    fn what_was_taken_may_be_given_back() {
        let buffers = Buffers::kept();
        let buffer = buffers.take_filled(100);
        assert_eq!(buffer, [0; 100]);
        let address = buffer.as_ptr();
        buffers.give(buffer);
        let again = buffers.take_filled(60);
        assert_eq!((again.as_ptr(), again.len()), (address, 60));
        Buffers::default().give(again);
        assert_eq!(Buffers::default().take_filled(3), [0; 3]);
    }

    #[test]
    fn nothing_is_kept_without_work() {
        let buffers = Buffers::kept();
        let (first, second) = (full(&buffers), full(&buffers));
        drop(first);
        buffers.free();
        drop(second);
        assert_eq!(buffers.take().capacity(), 0);
    }

    #[test]
    fn by_default_nothing_is_kept() {
        let buffers = Buffers::default();
        drop(full(&buffers));
        assert_eq!(buffers.take().capacity(), 0);
    }
}
