//! Hashing many leaves, and the trees over them, on all threads and as many at once as the
//! machine's vectors hold. The bits are those of `lockstep_base::leaf` and `lockstep_base::merkle`.

use super::sha256::{LANES, sha256_many};
use crate::kernels::Compute;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::Digest;
use lockstep_base::leaf::{self, LeafIndex};
use lockstep_base::merkle;

/// Nodes of a task.
const NODES: usize = 128;

/// Where the bytes under a leaf come from.
pub(super) enum Content<'a> {
    /// They are encoded by whoever hashes them: the caller's leaf of this number.
    Encode(usize),
    /// They stand here, behind room for the leaf's header.
    Ready(&'a mut [u8]),
}

/// A leaf that is about to be hashed.
pub(super) struct Job<'a> {
    pub(super) index: LeafIndex,
    /// Bytes under it.
    pub(super) len: usize,
    pub(super) content: Content<'a>,
    pub(super) hash: &'a mut Digest,
    /// Where the bytes are kept, if they are.
    pub(super) kept: Option<&'a mut Vec<u8>>,
}

/// Hashes `jobs` under `secret`; `encode` appends the bytes under the leaf of that number.
pub(super) fn hash_leaves(
    compute: &Compute,
    secret: &Digest,
    mut jobs: Vec<Job<'_>>,
    encode: impl Fn(usize, &mut Vec<u8>) + Sync,
) {
    // Those of one length side by side.
    jobs.sort_by_key(|job| job.len);
    let mut groups: Vec<&mut [Job<'_>]> = jobs.chunks_mut(LANES).collect();
    compute.pool.for_each(&mut groups, |group| {
        let salts: Vec<_> = group.iter().map(|job| leaf::salt_message(secret, &job.index)).collect();
        let mut hashes = vec![Digest::ZERO; group.len()];
        sha256_many(compute.kernel, &salts, &mut hashes);
        let encoded = |job: &&Job<'_>| matches!(job.content, Content::Encode(_));
        let bytes: usize = group.iter().filter(encoded).map(|job| leaf::HEADER_BYTES + job.len).sum();
        let mut buffer = Vec::with_capacity(bytes);
        for (job, hash) in group.iter_mut().zip(&hashes) {
            let header = leaf::header(&leaf::salt_of(hash), &job.index);
            let content = match &mut job.content {
                Content::Encode(number) => {
                    buffer.extend_from_slice(&header);
                    let start = buffer.len();
                    encode(*number, &mut buffer);
                    &buffer[start..]
                }
                Content::Ready(message) => {
                    let (room, content) = message.split_at_mut(leaf::HEADER_BYTES);
                    room.copy_from_slice(&header);
                    content
                }
            };
            if let Some(kept) = &mut job.kept {
                **kept = content.to_vec();
            }
        }
        let mut rest = buffer.as_slice();
        let mut messages: Vec<&[u8]> = Vec::with_capacity(group.len());
        for job in group.iter() {
            messages.push(match &job.content {
                Content::Encode(_) => rest.split_off(..leaf::HEADER_BYTES + job.len).unwrap_or_default(),
                Content::Ready(message) => message,
            });
        }
        sha256_many(compute.kernel, &messages, &mut hashes);
        group.iter_mut().zip(hashes).for_each(|(job, hash)| *job.hash = hash);
    });
}

/// The root over leaf hashes, as [`merkle::root`] gives it.
pub(super) fn tree_root(compute: &Compute, mut level: Vec<Digest>) -> Digest {
    while level.len() > NODES {
        let mut next = vec![Digest::ZERO; level.len().div_ceil(2)];
        let mut tasks: Vec<(&mut [Digest], &[Digest])> =
            next.chunks_mut(NODES).zip(level.chunks(2 * NODES)).collect();
        compute.pool.for_each(&mut tasks, |(next, level)| {
            let (pairs, alone) = level.as_chunks::<2>();
            let messages: Vec<_> = pairs.iter().map(|[a, b]| merkle::node_message(a, b)).collect();
            sha256_many(compute.kernel, &messages, &mut next[..pairs.len()]);
            next[pairs.len()..].copy_from_slice(alone);
        });
        level = next;
    }
    merkle::root(&level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernel;
    use crate::pool::Pool;

    /// receipts.md 1: level by level gives the tree that splits at the largest power of two.
    #[test]
    fn levels_give_the_tree_of_the_specification() {
        for kernel in Kernel::available() {
            let compute = Compute { kernel, pool: Pool::new(2) };
            for count in (0..700).chain([1023, 1024, 1025, 4097]) {
                let leaves: Vec<Digest> =
                    (0..count as u64).map(|i| Digest::of(&[&i.to_be_bytes()])).collect();
                assert_eq!(tree_root(&compute, leaves.clone()), merkle::root(&leaves), "{count} leaves");
            }
        }
    }
}
