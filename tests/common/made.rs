//! Stores whose trees are made by hand: of shapes that take long to make on a disk, or that no backup makes.

use std::sync::Arc;

use plakar_connectors::fs::FsStore;
use plakar_engine::cache::LocalDirs;
use plakar_engine::cancel::Cancel;
use plakar_engine::crypto::Class;
use plakar_engine::id::BlobId;
use plakar_engine::keyslot::UserSecret;
use plakar_engine::meta::{Kind, Metadata};
use plakar_engine::repository::writer::{Framer, Run};
use plakar_engine::repository::{Probe, Repository};
use plakar_engine::snapshot::Snapshot;
use plakar_engine::storage::Store;
use plakar_engine::tree::{Contents, Detail, Entry, Summary, build};

use super::sandbox::Sandbox;

/// Builds a tree by hand.
pub(crate) struct Builder {
    run: Arc<Run>,
    data: Framer,
    meta: Framer,
}

impl Builder {
    /// Stores a blob.
    pub(crate) fn put(&mut self, class: Class, blob: &[u8]) -> BlobId {
        let id = self.run.repository().keys().identify(class, blob);
        if self.run.claim(&id) {
            let framer = if class == Class::Data { &mut self.data } else { &mut self.meta };
            framer.push(&self.run, id, blob).unwrap();
        }
        id
    }

    /// A directory of such entries.
    pub(crate) fn directory(&mut self, name: &str, entries: &[Entry]) -> Entry {
        let key = *self.run.repository().keys().chunker();
        let node: Result<_, std::convert::Infallible> =
            build::directory(entries, &key, |node| Ok(self.put(Class::Meta, &node)));
        let mut below = Summary::default();
        entries.iter().for_each(|e| below.add(e));
        entry(name, Kind::Directory, Detail::Directory { node: node.unwrap(), below, partial: false })
    }
}

/// An entry with the least of metadata.
pub(crate) fn entry(name: &str, kind: Kind, detail: Detail) -> Entry {
    let meta = Metadata { kind, ..Metadata::directory(0o755) };
    Entry::new(name, meta, detail)
}

/// A regular file as long as its contents.
pub(crate) fn file(name: &str, contents: Contents) -> Entry {
    let size = contents.items.iter().map(|i| i.len).sum();
    let mut file = entry(name, Kind::Regular, Detail::Regular(contents));
    file.meta.size = size;
    file
}

/// A store with one snapshot, whose `/` is what is built.
pub(crate) fn store(build: impl FnOnce(&mut Builder) -> Entry + Send + 'static) -> Sandbox {
    let sandbox = Sandbox::with_key_file();
    let secret = UserSecret::from_file_contents(std::fs::read(sandbox.path("key")).unwrap());
    let dirs = LocalDirs { cache: sandbox.path("evil cache"), state: sandbox.path("evil state") };
    let store: Arc<dyn Store> = Arc::new(FsStore::new(sandbox.store()));
    let work = async {
        let probe = Probe::read(&store).await.unwrap();
        let repository = Repository::open(store.clone(), probe, Some(secret), &dirs).await.unwrap();
        let run = Run::begin(&repository, "host", "backup", Cancel::default()).await.unwrap();
        let building = run.clone();
        let root = tokio::task::spawn_blocking(move || {
            let [data, meta] = [Class::Data, Class::Meta].map(|c| building.framer(c).unwrap());
            let mut builder = Builder { run: building, data, meta };
            let mut root = build(&mut builder);
            root.name = b".".to_vec();
            let Builder { run, mut data, mut meta } = builder;
            data.flush(&run).unwrap();
            meta.flush(&run).unwrap();
            root
        });
        let root = root.await.unwrap();
        run.commit(&Snapshot { root, ..Snapshot::empty() }).await.unwrap().unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(work);
    sandbox
}
