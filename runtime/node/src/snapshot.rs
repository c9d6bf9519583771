//! `aurigraph snapshot`: the snapshots in a node's folder.
//!
//! `list` and `verify` read a running node's folder as well, `create` needs a node that runs, `restore` one that is
//! stopped.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aurigraph_actors::config::{ClusterConfig, load_genesis};
use aurigraph_actors::storage::snapshots::{self, FolderReader, SnapshotError};
use aurigraph_actors::storage::{Store, StoreOptions};
use aurigraph_ledger::Foundation;
use aurigraph_schema_upgrades::replace;
use serde_json::json;

use crate::cli::{Snapshot, SnapshotCreate, SnapshotOf};
use crate::error::{CliError, CliResult, Exit};
use crate::output::{Output, table};

/// Runs a command.
///
/// # Errors
/// [`Exit::DataDirectory`] if a snapshot does not prove itself or the folder is not as it must be.
pub fn run(command: &Snapshot, output: Output) -> CliResult {
    match command {
        Snapshot::List(args) => list(&args.data_dir, output),
        Snapshot::Verify(args) => verify(args, output),
        Snapshot::Create(args) => create(args, output),
        Snapshot::Restore(args) => restore(args, output),
    }
}

fn refused(error: SnapshotError) -> CliError {
    CliError::new(Exit::DataDirectory, error.to_string())
}

fn list(data_dir: &Path, output: Output) -> CliResult {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for found in snapshots::list(data_dir).map_err(refused)? {
        let manifest = FolderReader::open(&found.path).map_err(refused)?.manifest;
        let (bytes, digest) = (manifest.content_bytes(), manifest.digest());
        values.push(json!({
            "height": found.height, "commitIndex": manifest.commit_index, "bytes": bytes,
            "chunks": manifest.chunks.len(), "digest": digest, "path": found.path,
        }));
        rows.push(vec![
            found.height.to_string(),
            manifest.commit_index.to_string(),
            bytes.to_string(),
            digest.to_string(),
        ]);
    }
    output.print(&json!({ "snapshots": values }), |_| table(&["height", "commit", "bytes", "digest"], &rows));
    Ok(())
}

/// How often it is seen whether the node has written it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Leaves word for the running node, and waits.
fn create(args: &SnapshotCreate, output: Output) -> CliResult {
    let dir = &args.data_dir;
    if !is_locked(dir)? {
        let why = "no node runs with this folder: a node writes its snapshots while it runs";
        return Err(CliError::new(Exit::DataDirectory, format!("{}: {why}", dir.display())));
    }
    snapshots::want(dir).map_err(refused)?;
    let began = Instant::now();
    while snapshots::is_wanted(dir) {
        if began.elapsed() >= Duration::from_secs(args.within) {
            snapshots::unwant(dir).map_err(refused)?;
            let why = "its newest checkpoint was not certified meanwhile, or the epoch has no anchor yet";
            return Err(CliError::failed(format!(
                "the node has written no snapshot within {} s: {why}; its log says more",
                args.within
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let newest = snapshots::list(dir).map_err(refused)?.into_iter().next();
    let newest = newest.ok_or_else(|| CliError::failed("the snapshot is gone already".to_owned()))?;
    output.print(&json!({ "height": newest.height, "path": newest.path }), |_| {
        format!("the state after block {} is in {}", newest.height, newest.path.display())
    });
    Ok(())
}

/// Whether a node holds this folder.
fn is_locked(dir: &Path) -> CliResult<bool> {
    let path = dir.join("LOCK");
    match std::fs::File::open(&path) {
        Ok(file) => Ok(fs2::FileExt::try_lock_shared(&file).is_err()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CliError::file(&path, error)),
    }
}

fn genesis(path: &Path) -> CliResult<Foundation> {
    match load_genesis(path) {
        Ok(genesis) => Foundation::new(genesis).map_err(|error| CliError::file(path, error)),
        Err(error) => Ok(ClusterConfig::load(path).map_err(|_| CliError::file(path, error))?.genesis),
    }
}

/// Proves the snapshot that the arguments name, the newest without a height.
fn proven(args: &SnapshotOf) -> CliResult<(snapshots::Snapshot, PathBuf)> {
    let from = args.from.as_deref().unwrap_or(&args.data_dir);
    let found = snapshots::list(from).map_err(refused)?;
    let path = match args.height {
        Some(height) => from.join("snapshots").join(height.to_string()),
        None => found.first().map(|found| found.path.clone()).ok_or_else(|| {
            CliError::new(Exit::DataDirectory, format!("{}: there is no snapshot in it", from.display()))
        })?,
    };
    let snapshot = snapshots::verify(&path, &genesis(&args.genesis)?).map_err(refused)?;
    Ok((snapshot, path))
}

fn verify(args: &SnapshotOf, output: Output) -> CliResult {
    let (snapshot, _) = proven(args)?;
    let manifest = &snapshot.manifest;
    let value = json!({
        "height": manifest.height, "commitIndex": manifest.commit_index, "digest": manifest.digest(),
        "checkpointSequence": snapshot.ledger.checkpoint().seq, "stateRoot": snapshot.ledger.checkpoint().state_root,
        "attestedStake": snapshot.stake.0.to_string(), "totalStake": snapshot.stake.1.to_string(),
    });
    output.print(&value, |_| {
        format!(
            "the state after block {} is whole; {} of {} of stake have signed for it",
            manifest.height, snapshot.stake.0, snapshot.stake.1
        )
    });
    Ok(())
}

/// Has the next start begin with a proven snapshot. The store that was there is kept beside it.
fn restore(args: &SnapshotOf, output: Output) -> CliResult {
    let failed = |error: String| CliError::new(Exit::DataDirectory, error);
    let (snapshot, path) = proven(args)?;
    let store = args.data_dir.join("store");
    std::fs::create_dir_all(&args.data_dir).map_err(|error| CliError::file(&args.data_dir, error))?;
    let mut kept = None;
    if store.exists() || replace::is_unsettled(&store) {
        // A node that runs holds it open: then this fails, and nothing is moved.
        drop(
            Store::open(&args.data_dir, "restore", StoreOptions { upgrade: false, ..StoreOptions::default() })
                .map_err(|error| failed(error.to_string()))?,
        );
        let aside = (1..u32::MAX)
            .map(|number| args.data_dir.join(format!("store.before-restore-{number}")))
            .find(|path| !path.exists())
            .ok_or_else(|| failed("too many stores are set aside".to_owned()))?;
        std::fs::rename(&store, &aside).map_err(|error| CliError::file(&store, error))?;
        kept = Some(aside);
    }
    snapshots::adopt(&args.data_dir, &path, &snapshot.manifest).map_err(refused)?;
    snapshots::request(&args.data_dir, snapshot.manifest.height).map_err(|error| failed(error.to_string()))?;
    let height = snapshot.manifest.height;
    output.print(&json!({ "height": height, "kept": kept }), |_| {
        let kept = kept.as_ref().map_or_else(String::new, |kept| format!("; what was there is {}", kept.display()));
        format!("the next start begins with the state after block {height}{kept}")
    });
    Ok(())
}
