//! Where something is in a tree, as a chain of names: what lies deep shares its way with all that lies above it, so that
//! thousands of paths that wait for something cost no more than their names.

use std::sync::Arc;

/// A directory's place below a starting point; the default is that point itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    above: Trail,
    name: Box<[u8]>,
    /// Bytes of the path from the starting point on.
    length: usize,
}

impl Trail {
    /// A directory in this one.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let length = self.0.as_ref().map_or(0, |step| step.length + 1) + name.len();
        Self(Some(Arc::new(Step { above: self.clone(), name: name.into(), length })))
    }

    /// The path, behind that of the starting point: `/`, or nothing, or a directory's.
    pub(crate) fn path(&self, start: &[u8]) -> Vec<u8> {
        self.with(start, None)
    }

    /// The path of a name in this directory.
    pub(crate) fn path_of(&self, start: &[u8], name: &[u8]) -> Vec<u8> {
        self.with(start, Some(name))
    }

    fn with(&self, start: &[u8], last: Option<&[u8]>) -> Vec<u8> {
        let own = self.0.as_ref().map_or(0, |step| step.length);
        let inner = usize::from(own > 0 && last.is_some());
        let length = own + inner + last.map_or(0, <[u8]>::len);
        let below = length > 0 || last.is_some();
        let apart = usize::from(below && start.last().is_some_and(|b| *b != b'/'));
        let mut path = vec![b'/'; start.len() + apart + length];
        path[..start.len()].copy_from_slice(start);
        // From the end on: a step knows only what is above it.
        let mut end = path.len();
        let mut put = |name: &[u8]| {
            path[end - name.len()..end].copy_from_slice(name);
            end = (end - name.len()).saturating_sub(1);
        };
        last.into_iter().for_each(&mut put);
        let mut at = self.0.as_deref();
        while let Some(step) = at {
            put(&step.name);
            at = step.above.0.as_deref();
        }
        path
    }
}

impl Drop for Step {
    /// One step after another: a chain that let go of itself by recursion would use up the stack.
    fn drop(&mut self) {
        let mut above = self.above.0.take();
        while let Some(mut step) = above.and_then(Arc::into_inner) {
            above = step.above.0.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together_from_their_names() {
        let top = Trail::default();
        let below = top.join(b"a").join(b"bc");
        for (start, own, path, name) in [
            (&b"/"[..], &b"/"[..], &b"/a/bc"[..], &b"/a/bc/x"[..]),
            (b"", b"", b"a/bc", b"a/bc/x"),
            (b"/srv", b"/srv", b"/srv/a/bc", b"/srv/a/bc/x"),
        ] {
            assert_eq!((top.path(start), below.path(start)), (own.to_vec(), path.to_vec()));
            assert_eq!(below.path_of(start, b"x"), name);
        }
        // What names are put behind.
        assert_eq!(
            (top.path_of(b"/srv", b""), below.path_of(b"/", b"")),
            (b"/srv/".to_vec(), b"/a/bc/".to_vec())
        );
        assert_eq!((top.path_of(b"/", b"x"), top.path_of(b"", b"x")), (b"/x".to_vec(), b"x".to_vec()));
    }

    #[test]
    fn a_long_chain_goes_without_recursion() {
        let mut deep = Trail::default();
        for _ in 0..1_000_000 {
            deep = deep.join(b"d");
        }
        drop(deep);
    }
}
