//! Random use of the filesystem beside a model of it that is plain enough to be believed.
//!
//! The model knows the trees that were backed up, which snapshots are shown, and how often each inode was given out. It
//! is asked the same things, and every answer must be the same. What was removed stays as long as it is held.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use plakar_engine::id::ObjectId;
use plakar_engine::meta::Kind;
use plakar_engine::snapshot::Description;
use plakar_mount::config::FsConfig;
use plakar_mount::fs::{Attr, Lookup, ROOT, Seek, SnapshotFs};
use plakar_mount::{FsError, Xattrs};

use crate::random::Random;
use crate::source::{Node, What};
use crate::store::TestStore;

const STEPS: usize = 2000;

/// What an inode stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    /// A directory of the views, by its path.
    Folder(String),
    /// A link in the views: its path, and where it leads.
    Link(String, String),
    /// Something in a snapshot, by its path.
    Node(ObjectId, Vec<Vec<u8>>),
    /// One of several names of a file in a snapshot, by the number of the file.
    Linked(ObjectId, u64),
}

/// An inode that was given out.
#[derive(Debug)]
struct Held {
    lookups: u64,
    thing: Thing,
    /// Where it was found: any of its names will do.
    place: Option<(ObjectId, Vec<Vec<u8>>)>,
}

struct Model {
    fs: Arc<SnapshotFs>,
    store: TestStore,
    random: Random,
    /// Every snapshot there ever was, with its tree.
    trees: BTreeMap<ObjectId, Node>,
    /// Those that are shown, by their times.
    shown: BTreeMap<i64, ObjectId>,
    held: BTreeMap<u64, Held>,
    /// Each thing's number, for good.
    numbers: BTreeMap<Thing, u64>,
    /// What snapshots are called.
    names: BTreeMap<ObjectId, String>,
    /// Cookies that a listing gave, by directory: the name's position and its cookie.
    cookies: BTreeMap<u64, Vec<(Vec<u8>, u64)>>,
}

/// An entry of a tree as it must show.
fn looks_as(attr: &Attr, node: &Node) {
    let m = &node.meta;
    let (size, links) = match &node.what {
        What::Directory(_) => (4096, 1),
        What::Symlink(target) => (target.len() as u64, 1),
        What::File(_) => (m.size, node.links.map_or(1, |l| l.1)),
        What::Special | What::Missing => (0, 1),
    };
    let found = (attr.kind, attr.mode, attr.uid, attr.gid, attr.mtime, attr.size, u64::from(attr.links));
    assert_eq!(found, (m.kind, m.mode, m.uid, m.gid, m.mtime, size, links));
    if matches!(m.kind, Kind::CharDevice | Kind::BlockDevice) {
        assert_eq!(attr.rdev, m.rdev);
    }
    if let What::File(data) = &node.what {
        let held: u64 = data.iter().map(|(_, d)| d.len() as u64).sum();
        let held = if node.unreadable { m.size } else { held };
        assert_eq!(attr.blocks, held.div_ceil(512));
    }
}

/// The bytes of a file.
fn contents(node: &Node) -> Vec<u8> {
    let mut all = vec![0; node.meta.size as usize];
    if let What::File(data) = &node.what {
        for (start, bytes) in data {
            all[*start as usize..*start as usize + bytes.len()].copy_from_slice(bytes);
        }
    }
    all
}

impl Model {
    async fn new(seed: u64) -> Self {
        let store = TestStore::new().await;
        let config = FsConfig { xattrs: Xattrs::On, ..FsConfig::default() };
        let fs = SnapshotFs::open(store.repository.clone(), config).await.unwrap();
        let thing = Thing::Folder(String::new());
        let root = Held { lookups: 1, thing: thing.clone(), place: None };
        Self {
            fs,
            store,
            random: Random(seed),
            trees: BTreeMap::new(),
            shown: BTreeMap::new(),
            held: BTreeMap::from([(ROOT, root)]),
            numbers: BTreeMap::from([(thing, ROOT)]),
            names: BTreeMap::new(),
            cookies: BTreeMap::new(),
        }
    }

    /// Any inode that is held.
    fn any(&mut self) -> u64 {
        let at = self.random.below(self.held.len());
        *self.held.keys().nth(at).unwrap()
    }

    /// What stands in a snapshot at an inode.
    fn node(&self, ino: u64) -> Option<Node> {
        let (id, path) = self.held[&ino].place.as_ref()?;
        let all = &self.trees[id];
        Some(path.iter().fold(all, |node, name| match &node.what {
            What::Directory(entries) => &entries[name],
            _ => unreachable!("the model has a path through a file"),
        }))
        .cloned()
    }

    /// Names and things in a directory of the views, in their order where it matters.
    fn folder(&self, path: &str) -> BTreeMap<Vec<u8>, Thing> {
        let link = |name: &str, to: String| {
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            (name.as_bytes().to_vec(), Thing::Link(path, to))
        };
        let mut names = BTreeMap::new();
        match path {
            "" => {
                names.insert(b"snapshots".to_vec(), Thing::Folder("snapshots".into()));
                let (name, thing) = link("ids", ".plakar/ids".into());
                names.insert(name, thing);
                if let Some((_, newest)) = self.shown.last_key_value() {
                    let (name, thing) = link("latest", format!("snapshots/{}", self.snapshot_name(newest)));
                    names.insert(name, thing);
                }
            }
            "snapshots" => names.extend(
                self.shown
                    .values()
                    .map(|id| (self.snapshot_name(id).as_bytes().to_vec(), Thing::Node(*id, Vec::new()))),
            ),
            ".plakar/ids" => names.extend(
                self.shown
                    .values()
                    .map(|id| link(&id.to_string(), format!("../../snapshots/{}", self.snapshot_name(id)))),
            ),
            _ => {}
        }
        names
    }

    /// The name that the filesystem has given a snapshot: the time in it is local, so it is not made up here.
    fn snapshot_name(&self, id: &ObjectId) -> &str {
        &self.names[id]
    }

    /// Follows the link from an id to the name.
    async fn learn_name(&mut self, id: ObjectId) {
        let find = async |parent: u64, name: &[u8]| match self.fs.lookup(parent, name).await.unwrap() {
            Lookup::Found { attr, .. } => Some(attr.ino),
            Lookup::Missing { .. } => None,
        };
        let hidden = find(ROOT, b".plakar").await.unwrap();
        let ids = find(hidden, b"ids").await.unwrap();
        let link = find(ids, id.to_string().as_bytes()).await.expect("a new snapshot is there");
        let target = self.fs.read_link(link).await.unwrap();
        let name = target.strip_prefix(b"../../snapshots/").unwrap().to_vec();
        assert!(name.ends_with(format!("_{}", id.short()).as_bytes()));
        self.names.insert(id, String::from_utf8(name).unwrap());
        [hidden, ids, link].into_iter().for_each(|ino| self.fs.forget(ino, 1));
    }

    /// What a directory holds, by the model: names in the order of their bytes.
    fn entries(&self, ino: u64) -> Option<BTreeMap<Vec<u8>, Thing>> {
        if let Thing::Folder(path) = &self.held[&ino].thing {
            return Some(self.folder(path));
        }
        let (id, path) = self.held[&ino].place.clone()?;
        let What::Directory(entries) = self.node(ino)?.what else { return None };
        let thing = |(name, node): (Vec<u8>, Node)| {
            let thing = match node.links {
                Some((inode, _)) => Thing::Linked(id, inode),
                None => Thing::Node(id, [path.clone(), vec![name.clone()]].concat()),
            };
            (name, thing)
        };
        let shown = entries.into_iter().filter(|(_, node)| !matches!(node.what, What::Missing));
        Some(shown.map(thing).collect())
    }

    /// Takes note of an inode that was given out under a name of a directory.
    fn hold(&mut self, parent: u64, name: &[u8], thing: Thing, attr: &Attr) {
        let number = *self.numbers.entry(thing.clone()).or_insert(attr.ino);
        assert_eq!(number, attr.ino, "{thing:?} has two numbers");
        let place = match (&thing, &self.held[&parent].place) {
            (Thing::Node(id, path), None) => Some((*id, path.clone())),
            (_, Some((id, path))) => Some((*id, [path.clone(), vec![name.to_vec()]].concat())),
            (_, None) => None,
        };
        let held = self.held.entry(attr.ino).or_insert(Held { lookups: 0, thing: thing.clone(), place });
        assert_eq!(held.thing, thing, "two things have the number {}", attr.ino);
        held.lookups += 1;
        self.check_attributes(attr);
    }

    fn check_attributes(&self, attr: &Attr) {
        match (&self.held[&attr.ino].thing, self.node(attr.ino)) {
            (_, Some(node)) => looks_as(attr, &node),
            (Thing::Link(_, to), None) => {
                assert_eq!((attr.kind, attr.size), (Kind::Symlink, to.len() as u64));
            }
            (_, None) => assert_eq!((attr.kind, attr.mode), (Kind::Directory, 0o555)),
        }
    }

    async fn lookup(&mut self) {
        let parent = self.any();
        let Some(entries) = self.entries(parent) else {
            let name = self.random.name();
            assert_eq!(self.fs.lookup(parent, &name).await, Err(FsError::NotDirectory));
            return;
        };
        let names: Vec<_> = entries.keys().cloned().collect();
        let name = match self.random.pick(&names) {
            Some(name) if !self.random.one_in(5) => name.clone(),
            _ => self.random.name(),
        };
        match (self.fs.lookup(parent, &name).await.unwrap(), entries.get(&name)) {
            (Lookup::Found { attr, .. }, Some(thing)) => self.hold(parent, &name, thing.clone(), &attr),
            (Lookup::Missing { .. }, None) => {}
            (found, expected) => {
                unreachable!("{}: {found:?}, not {expected:?}", name.escape_ascii())
            }
        }
    }

    async fn list(&mut self) {
        let ino = self.any();
        let Some(entries) = self.entries(ino) else {
            assert_eq!(self.fs.list(ino, 0).await.map(drop).unwrap_err(), FsError::NotDirectory);
            return;
        };
        let in_view = self.held[&ino].place.is_none();
        let known = self.cookies.get(&ino).cloned().unwrap_or_default();
        let (behind, mut after) = match self.random.pick(&known) {
            Some((name, cookie)) if !self.random.one_in(4) => (Some(name.clone()), *cookie),
            _ => (None, 0),
        };
        // At the root stand views too that are not this model's: they are not held.
        let (limit, holding) = (1 + self.random.below(40), ino != ROOT && self.random.one_in(2));
        let mut found: Vec<Vec<u8>> = Vec::new();
        'listing: loop {
            let batch = self.fs.list(ino, after).await.unwrap();
            if batch.is_empty() {
                break;
            }
            let mut seen = Vec::new();
            for place in 0..batch.len() {
                let fs = self.fs.clone();
                let item = if holding { fs.hold(&batch, place) } else { fs.item(&batch, place) };
                let Some(item) = item else { continue };
                assert!(item.cookie > after, "cookies grow");
                after = item.cookie;
                seen.push((item.name.to_vec(), item.cookie, item.attr, item.dot));
                if found.len() + seen.len() >= limit {
                    break;
                }
            }
            if seen.is_empty() {
                // Nothing but what is not shown.
                after += batch.len() as u64;
            }
            for (name, cookie, attr, dot) in seen {
                if !dot {
                    let Some(thing) = entries.get(&name).cloned() else {
                        assert!(ino == ROOT, "{} is listed", name.escape_ascii());
                        continue;
                    };
                    if holding {
                        self.hold(ino, &name, thing, &attr);
                    } else {
                        let number = *self.numbers.entry(thing).or_insert(attr.ino);
                        assert_eq!(number, attr.ino);
                    }
                    let known = self.cookies.entry(ino).or_default();
                    match known.iter().find(|(n, _)| *n == name) {
                        Some((_, before)) => assert_eq!(*before, cookie, "a name keeps its cookie"),
                        None => known.push((name.clone(), cookie)),
                    }
                }
                found.push(name);
            }
            if found.len() >= limit {
                break 'listing;
            }
        }
        let full = found.len() < limit;
        found.retain(|n| n != b"." && n != b"..");
        if in_view {
            // Their order is by time; which are there is what counts.
            let mut unique = found.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), found.len());
            if full && behind.is_none() {
                assert!(unique.iter().eq(entries.keys()));
            }
            return;
        }
        let expected = entries.keys().skip_while(|n| behind.as_ref().is_some_and(|b| *n <= b));
        let expected: Vec<_> = expected.take(found.len()).cloned().collect();
        assert_eq!(found, expected, "behind {behind:?}");
        if full {
            assert_eq!(entries.keys().next_back(), found.last().or(behind.as_ref()), "it ended early");
        }
    }

    async fn read(&mut self) {
        let ino = self.any();
        let (offset, len) = (self.random.offset(), self.random.offset() as u32);
        let answer = self.fs.read(ino, offset, len).await;
        let Some(node) = self.node(ino) else {
            let refused = if matches!(self.held[&ino].thing, Thing::Link(..)) {
                FsError::Invalid
            } else {
                FsError::IsDirectory
            };
            assert_eq!(answer, Err(refused));
            return;
        };
        match &node.what {
            What::Directory(_) => assert_eq!(answer, Err(FsError::IsDirectory)),
            What::File(_) if node.unreadable => assert_eq!(answer, Err(FsError::Failed)),
            What::File(_) => {
                let all = contents(&node);
                let end = (offset + u64::from(len)).min(all.len() as u64) as usize;
                let expected = all.get(offset as usize..end).unwrap_or_default();
                assert!(answer.unwrap().joined()[..] == *expected, "{offset} {len} of {}", all.len());
            }
            _ => assert_eq!(answer, Err(FsError::Invalid)),
        }
    }

    async fn seek(&mut self) {
        let ino = self.any();
        let offset = self.random.offset();
        let node = self.node(ino);
        let Some((node, What::File(data))) = node.as_ref().map(|n| (n, &n.what)) else {
            assert!(self.fs.seek(ino, offset, Seek::Data).await.is_err());
            return;
        };
        let size = node.meta.size;
        let is_data = |at: u64| {
            node.unreadable || data.iter().any(|(start, d)| (*start..start + d.len() as u64).contains(&at))
        };
        // Where anything can begin or end.
        let mut places: Vec<u64> = data.iter().flat_map(|(s, d)| [*s, s + d.len() as u64]).collect();
        places.extend([offset, size]);
        places.sort_unstable();
        let next =
            |wanted| places.iter().copied().find(|at| *at >= offset && *at < size && is_data(*at) == wanted);
        let (data_at, hole_at) = match offset >= size {
            true => (Err(FsError::NoData), Err(FsError::NoData)),
            false => (next(true).ok_or(FsError::NoData), Ok(next(false).unwrap_or(size))),
        };
        assert_eq!(self.fs.seek(ino, offset, Seek::Data).await, data_at, "data at {offset} of {size}");
        assert_eq!(self.fs.seek(ino, offset, Seek::Hole).await, hole_at, "a hole at {offset} of {size}");
    }

    async fn examine(&mut self) {
        let ino = self.any();
        let attr = self.fs.attributes(ino).await.unwrap();
        assert_eq!(attr.ino, ino);
        self.check_attributes(&attr);
        let node = self.node(ino);
        let target = match (&self.held[&ino].thing, node.as_ref().map(|n| &n.what)) {
            (_, Some(What::Symlink(target))) => Ok(target.clone()),
            (Thing::Link(_, to), None) => Ok(to.clone().into_bytes()),
            _ => Err(FsError::Invalid),
        };
        assert_eq!(self.fs.read_link(ino).await.map(|t| t.to_vec()), target);
        let xattrs = node.map(|n| n.xattrs).unwrap_or_default();
        let names: Vec<_> = xattrs.iter().map(|x| x.name.clone()).collect();
        assert_eq!(self.fs.xattr_names(ino).await, Ok(names));
        for name in ["user.a", "user.b", "user.c"] {
            let value = xattrs.iter().find(|x| x.name == name.as_bytes()).map(|x| x.value.clone());
            // Links and directories of the views have none.
            let expected = match self.held[&ino].place {
                Some(_) => value.ok_or(FsError::NoAttribute),
                None => Err(FsError::NoAttribute),
            };
            assert_eq!(self.fs.xattr(ino, name.as_bytes()).await, expected);
        }
    }

    async fn forget(&mut self) {
        let ino = self.any();
        let lookups = self.held[&ino].lookups;
        let back = 1 + self.random.next() % lookups;
        self.fs.forget(ino, back);
        if ino == ROOT {
            return;
        }
        self.held.get_mut(&ino).unwrap().lookups -= back;
        if back < lookups {
            return;
        }
        let gone = self.held.remove(&ino).unwrap();
        // Numbers in one directory are kept together, until nothing in it or below is held.
        let is_beside_or_below = |h: &Held| match (&gone.place, &h.place) {
            (Some((id, path)), Some((other, below))) => {
                let up = path.split_last().map_or(&path[..], |(_, up)| up);
                id == other && below.len() > up.len() && below.starts_with(up)
            }
            _ => false,
        };
        if !self.held.values().any(is_beside_or_below) {
            assert_eq!(self.fs.attributes(ino).await, Err(FsError::Stale));
            assert_eq!(self.fs.read(ino, 0, 1).await, Err(FsError::Stale));
            assert_eq!(self.fs.lookup(ino, b"a").await, Err(FsError::Stale));
            assert_eq!(self.fs.list(ino, 0).await.map(drop), Err(FsError::Stale));
        }
    }

    async fn change_snapshots(&mut self) {
        let before = self.fs.attributes(ROOT).await.unwrap().mtime;
        let newest = self.shown.last_key_value().map(|(time, _)| *time);
        let mut new = None;
        if self.shown.len() > 3 || (self.shown.len() > 1 && self.random.one_in(2)) {
            let at = self.random.below(self.shown.len());
            let (time, id) = self.shown.iter().nth(at).map(|(t, id)| (*t, *id)).unwrap();
            self.store.repository.remove_snapshots(&[id], "test").await.unwrap();
            self.shown.remove(&time);
        } else {
            let time_ns = (1 + self.random.next() as i64 % 1_000_000).abs() * 1_000_000_000;
            if self.shown.contains_key(&time_ns) {
                return;
            }
            // Often much the same as one before.
            let ids: Vec<_> = self.trees.keys().copied().collect();
            let tree = match self.random.pick(&ids) {
                Some(id) if self.random.one_in(2) => self.trees[id].clone(),
                _ => self.random.tree(0),
            };
            let header = Description { time_ns, ..Description::default() };
            let id = self.store.backup(tree.clone(), &["/"], header).await.id;
            self.shown.insert(time_ns, id);
            self.trees.insert(id, tree);
            new = Some(id);
        }
        let changes = self.fs.refresh().await.unwrap();
        if let Some(id) = new {
            self.learn_name(id).await;
        }
        assert!(
            changes.iter().any(|c| &*c.folder == b"snapshots" || &*c.folder == b".plakar/ids"),
            "{changes:?}"
        );
        let leads_elsewhere = newest != self.shown.last_key_value().map(|(time, _)| *time);
        if leads_elsewhere {
            assert!(self.fs.attributes(ROOT).await.unwrap().mtime > before);
        }
        assert!(self.fs.refresh().await.unwrap().is_empty(), "nothing more has changed");
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0 | 1 => self.change_snapshots().await,
            2..=34 => self.lookup().await,
            35..=49 => self.list().await,
            50..=69 => self.read().await,
            70..=76 => self.seek().await,
            77..=89 => self.examine().await,
            _ => self.forget().await,
        }
    }

    /// Another filesystem over the same store has the same numbers.
    async fn numbers_again(&self) {
        let config = FsConfig { xattrs: Xattrs::On, ..FsConfig::default() };
        let again = SnapshotFs::open(self.store.repository.clone(), config).await.unwrap();
        let find = async |parent: u64, name: &[u8]| match again.lookup(parent, name).await.unwrap() {
            Lookup::Found { attr, .. } => attr.ino,
            Lookup::Missing { .. } => 0,
        };
        let snapshots = find(ROOT, b"snapshots").await;
        for (thing, number) in &self.numbers {
            let Thing::Node(id, path) = thing else { continue };
            if !self.shown.values().any(|shown| shown == id) {
                continue;
            }
            let mut ino = find(snapshots, self.snapshot_name(id).as_bytes()).await;
            for name in path {
                ino = find(ino, name).await;
            }
            assert_eq!(ino, *number, "{thing:?}");
        }
    }
}

/// The directories in which a path of a snapshot stands.
fn above((id, path): &(ObjectId, Vec<Vec<u8>>)) -> impl Iterator<Item = (ObjectId, Vec<Vec<u8>>)> {
    (0..path.len()).map(|n| (*id, path[..n].to_vec()))
}

async fn run(seed: u64) {
    let mut model = Model::new(seed).await;
    // From a thread of its own, so that a failure anywhere names the seed.
    for i in 0..STEPS {
        if i == 0 {
            model.change_snapshots().await;
        }
        model.step().await;
        let above: HashSet<_> =
            model.held.values().filter_map(|h| h.place.as_ref()).flat_map(above).collect();
        let (rows, most) = (model.fs.held_inodes(), model.held.len() + above.len());
        assert!(rows <= most, "step {i}: {rows} for {most} inodes and directories above them");
    }
    model.numbers_again().await;
    for (ino, held) in &model.held {
        model.fs.forget(*ino, held.lookups);
    }
    assert_eq!(model.fs.held_inodes(), 1, "only the root is left");
    let seen = (model.trees.len(), model.numbers.len());
    assert!(seen.0 > 5 && seen.1 > 50, "too little was seen: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_use_gives_what_a_model_gives() {
    let seeds = match std::env::var("PLAKAR_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=5).collect(),
    };
    for seed in seeds {
        let ended = tokio::spawn(run(seed)).await;
        assert!(ended.is_ok(), "run it again alone with PLAKAR_SEED={seed}");
    }
}
