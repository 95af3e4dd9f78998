use super::*;

#[test]
fn names_are_safe_and_tell_different_texts_apart() {
    let cases: [(&[u8], &[u8]); 7] = [
        (b"host", b"host"),
        (b"a/b", b"a%2Fb"),
        (b"a%2Fb", b"a%252Fb"),
        (b"..", b"%2E%2E"),
        (b"", b"%"),
        (b"tab\there\n", b"tab%09here%0A"),
        ("größe".as_bytes(), "größe".as_bytes()),
    ];
    for (text, name) in cases {
        assert_eq!(safe_name(text), name, "{}", String::from_utf8_lossy(text));
    }
    let (long, longer) = (safe_name(&[b'x'; 300]), safe_name(&[b'x'; 301]));
    assert!(long.len() <= 200 && longer.len() <= 200 && long != longer);
}

#[test]
fn paths_become_names() {
    let cases: [(&[u8], &[u8]); 5] = [
        (b"/", b"_"),
        (b"/usr/share", b"usr_share"),
        (b"/usr_share", b"usr%5Fshare"),
        (b"/a%b", b"a%25b"),
        (b"/C:/Users", b"C:_Users"),
    ];
    for (path, name) in cases {
        assert_eq!(escape_path(path), name);
    }
}

fn snapshot(id: [u8; 32], time_ns: i64) -> Arc<Snapshot> {
    Arc::new(Snapshot { id: ObjectId(id), time_ns, roots: vec![b"/srv".to_vec()], ..Snapshot::empty() })
}

fn view(snapshots: &[Arc<Snapshot>]) -> View {
    View::new(&Catalog { snapshots: snapshots.to_vec(), ..Catalog::default() }, &Filter::all(), false)
}

fn names(view: &View, folder: &[u8]) -> Vec<String> {
    let items = &view.folder(folder).expect("a folder").items();
    items.iter().map(|i| String::from_utf8_lossy(&i.name).into_owned()).collect()
}

#[test]
fn ids_that_begin_alike_get_longer_names() {
    let mut other = [7; 32];
    other[20] = 8;
    let view = view(&[snapshot([7; 32], 0), snapshot(other, 0), snapshot([9; 32], 0)]);
    let mut ends: Vec<_> =
        names(&view, b"snapshots").iter().map(|n| n.rsplit('_').next().map(str::len)).collect();
    ends.sort();
    assert_eq!(ends, [Some(8), Some(8), Some(16)]);
}

#[test]
fn a_prefix_leads_to_one_snapshot_or_nowhere() {
    let mut other = [7; 32];
    other[3] = 8;
    let view = view(&[snapshot([7; 32], 0), snapshot(other, 1)]);
    assert!(view.by_prefix("07070707").is_some());
    assert!(view.by_prefix("07070708").is_some());
    for none in ["07070f07", "070", "0707070g", "08080808", "07070707 "] {
        assert!(view.by_prefix(none).is_none(), "{none:?}");
    }
    assert!(view.by_prefix(&"07".repeat(32)).is_some());
    assert!(view.by_prefix(&"07".repeat(33)).is_none());
}

#[test]
fn cookies_rise_and_belong_to_names() {
    let mut all: Vec<_> = (0..50).map(|i| snapshot([i; 32], 1_000_000 + i64::from(i / 10) * 1000)).collect();
    let cookies = |view: &View| -> HashMap<Arc<[u8]>, u64> {
        let items = &view.folder(b".plakar/hosts/%").expect("a folder").items();
        assert!(items.windows(2).all(|w| w[0].cookie < w[1].cookie));
        items.iter().map(|i| (i.name.clone(), i.cookie)).collect()
    };
    let before = cookies(&view(&all));
    all.retain(|s| s.id.0[0] % 3 != 0);
    for (name, cookie) in cookies(&view(&all)) {
        assert_eq!(before.get(&name), Some(&cookie));
    }
}

#[test]
fn only_what_changed_gets_a_new_time() {
    let first = view(&[snapshot([1; 32], 5)]);
    let mut same = view(&[snapshot([1; 32], 5)]);
    assert_eq!(same.succeed(&first, 100), []);
    let mut second = view(&[snapshot([1; 32], 5), snapshot([2; 32], 6)]);
    let changes = second.succeed(&first, 100);
    let folders: Vec<_> = changes.iter().map(|c| &c.folder[..]).collect();
    assert!(folders.contains(&&b""[..]) && folders.contains(&&b".plakar/ids"[..]));
    assert!(!folders.contains(&&b".plakar/hosts"[..]));
    let time = |view: &View, folder: &[u8]| view.folder(folder).expect("a folder").mtime;
    assert_eq!(time(&second, b".plakar/hosts"), time(&first, b".plakar/hosts"));
    assert_eq!(time(&second, b".plakar/ids"), timestamp(100));
    // A clock that stands still, or goes back, gives a new time all the same.
    let mut third = view(&[snapshot([2; 32], 6)]);
    third.succeed(&second, 3);
    assert_eq!(time(&third, b".plakar/ids"), timestamp(101));
}
