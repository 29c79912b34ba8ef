//! The cache of compiled modules: loaded only if this machine wrote it.

use crate::fixture::{ENGINE, SUM, Wat};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tributary_wasm::{Error, ModuleCache};

fn deployed() -> (TempDir, ModuleCache, String, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModuleCache::open(dir.path()).unwrap();
    let digest = cache.deploy(&ENGINE, &SUM.wasm()).unwrap();
    let entry = dir.path().join(format!("{digest}.compiled"));
    (dir, cache, digest, entry)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_module_is_compiled_once_and_loaded_by_its_digest() {
    let (dir, cache, digest, entry) = deployed();
    let first = std::fs::metadata(&entry).unwrap();
    assert_eq!(cache.deploy(&ENGINE, &SUM.wasm()).unwrap(), digest);
    let second = std::fs::metadata(&entry).unwrap();
    assert_eq!(first.modified().unwrap(), second.modified().unwrap());
    assert_eq!(cache.load(&ENGINE, &digest).unwrap().digest(), digest);
    // Another process opens the same cache with the same key.
    let other = ModuleCache::open(dir.path()).unwrap();
    other.load(&ENGINE, &digest).unwrap();
    assert_eq!(mode(&dir.path().join("key")), 0o600);
    assert_eq!(mode(&entry), 0o600);
}

#[test]
fn the_digest_is_the_modules_sha_256() {
    let (_dir, _cache, digest, _entry) = deployed();
    let again = deployed().2;
    assert_eq!(digest, again);
    assert_eq!(digest.len(), 64);
    let other = Wat {
        fold: "(i32.const 1)",
        ..SUM
    };
    let dir = tempfile::tempdir().unwrap();
    let cache = ModuleCache::open(dir.path()).unwrap();
    assert_ne!(cache.deploy(&ENGINE, &other.wasm()).unwrap(), digest);
}

#[test]
fn any_changed_byte_is_found_and_deploying_mends_it() {
    let (_dir, cache, digest, entry) = deployed();
    let whole = std::fs::read(&entry).unwrap();
    // The header whole, then samples of the code, then the last byte.
    let samples = (0..48)
        .chain((48..whole.len()).step_by(997))
        .chain([whole.len() - 1]);
    for at in samples {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&entry, changed).unwrap();
        let error = cache.load(&ENGINE, &digest).expect_err("changed");
        assert!(
            matches!(error, Error::Tampered { .. }),
            "byte {at}: {error}"
        );
    }
    for len in [0, 7, 47, 48, whole.len() - 1] {
        std::fs::write(&entry, &whole[..len]).unwrap();
        let error = cache.load(&ENGINE, &digest).expect_err("cut short");
        assert!(
            matches!(error, Error::Tampered { .. }),
            "{len} bytes: {error}"
        );
    }
    cache.deploy(&ENGINE, &SUM.wasm()).unwrap();
    cache.load(&ENGINE, &digest).unwrap();
}

#[test]
fn an_entry_in_anothers_place_is_found() {
    let (dir, cache, digest, entry) = deployed();
    let other = Wat {
        fold: "(i32.const 1)",
        ..SUM
    };
    let other_digest = cache.deploy(&ENGINE, &other.wasm()).unwrap();
    std::fs::copy(&entry, dir.path().join(format!("{other_digest}.compiled"))).unwrap();
    let error = cache.load(&ENGINE, &other_digest).expect_err("not its own");
    assert!(matches!(error, Error::Tampered { .. }), "{error}");
    cache.load(&ENGINE, &digest).unwrap();
}

#[test]
fn an_entry_from_another_machine_is_found() {
    let (_dir, _cache, digest, entry) = deployed();
    let (_elsewhere, other, _, other_entry) = deployed();
    std::fs::copy(entry, other_entry).unwrap();
    let error = other.load(&ENGINE, &digest).expect_err("another key");
    assert!(matches!(error, Error::Tampered { .. }), "{error}");
}

#[test]
fn what_was_never_deployed_is_not_loaded() {
    let (_dir, cache, ..) = deployed();
    let error = cache.load(&ENGINE, &"0".repeat(64)).expect_err("unknown");
    assert!(matches!(error, Error::NotDeployed { .. }), "{error}");
    for digest in ["", "key", "../key", &"A".repeat(64), &"0".repeat(63)] {
        let error = cache.load(&ENGINE, digest).expect_err("not a digest");
        assert!(matches!(error, Error::Digest(_)), "{error}");
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (dir, ..) = deployed();
    let key = dir.path().join("key");
    let open = || {
        ModuleCache::open(dir.path())
            .expect_err("a bad key")
            .to_string()
    };
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(open().contains("0644"));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&key, b"short").unwrap();
    assert!(open().contains("5 bytes"));
    std::fs::rename(&key, dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &key).unwrap();
    assert!(open().contains("symbolic link"));
    std::fs::remove_file(&key).unwrap();
    ModuleCache::open(dir.path()).unwrap();
}

#[test]
fn processes_that_open_a_new_cache_at_once_agree_on_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let digests: Vec<_> = std::thread::scope(|scope| {
        let open = || {
            let cache = ModuleCache::open(&path).unwrap();
            let digest = cache.deploy(&ENGINE, &SUM.wasm()).unwrap();
            (cache, digest)
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for (cache, digest) in digests {
        cache.load(&ENGINE, &digest).unwrap();
    }
    assert_eq!(mode(&path), 0o700);
    let left: Vec<_> = std::fs::read_dir(&path).unwrap().collect();
    assert_eq!(
        left.len(),
        2,
        "a key and an entry, nothing temporary: {left:?}"
    );
}
