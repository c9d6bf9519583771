//! `aurigraph schema`: the schema version of a stopped node's store, as `aurigraph-schema-upgrades` keeps it.
//!
//! Finds the store and prints; what is right and what is done is that crate's.

use std::path::Path;

use aurigraph_actors::parties::InFolder;
use aurigraph_actors::release;
use aurigraph_schema_upgrades::{
    Database, Finding, Options, Plan, Progress, Report, Status, UpgradeError, backup, replace, restore, rfc3339,
};
use serde_json::{Value, json};

use crate::cli::{Schema, SchemaRestore, SchemaStore};
use crate::error::{CliError, CliResult, Exit};
use crate::output::{Output, table};

/// Runs a command.
///
/// # Errors
/// [`Exit::DataDirectory`] if the store is not as it must be, [`Exit::BadFile`] for a backup that cannot be used.
pub fn run(command: &Schema, output: Output) -> CliResult {
    let plan = release::schema_plan(Some(InFolder::new(&folder(command).data_dir)));
    match command {
        Schema::Status(store) => status(&plan, &open(store)?, output),
        Schema::Validate(store) => validate(&plan, &open(store)?, output),
        Schema::DryRun(args) => dry_run(&plan, &open(&args.store)?, args.to, output),
        Schema::Upgrade(args) => {
            let database = open(&args.store)?;
            let done = plan.upgrade_with(&database, args.to, options(&database, args.no_backup, &mut tell));
            report("upgrade", &done.map_err(refused)?, output)
        }
        Schema::Downgrade(args) => {
            let database = open(&args.store)?;
            let done = plan.downgrade(&database, args.to, options(&database, args.no_backup, &mut tell));
            report("downgrade", &done.map_err(refused)?, output)
        }
        Schema::Repair(args) => match &args.from_backup {
            Some(file) => restore_to(file, &args.store.data_dir, output),
            None => repair(&plan, &open(&args.store)?, output),
        },
        Schema::Baseline(args) => {
            let database = open(&args.store)?;
            plan.baseline(&database, args.to).map_err(refused)?;
            let text = format!("recorded as version {}; nothing of the content was changed", args.to);
            print(output, &json!({ "version": args.to }), text)
        }
        Schema::Backup(args) => take_backup(&plan, &open(&args.store)?, args.out.as_deref(), output),
        Schema::Restore(SchemaRestore { file, store }) => restore_to(file, &store.data_dir, output),
        Schema::Finalise(store) => {
            let version = plan.finalise(&open(store)?).map_err(refused)?;
            let text = format!("finalised at version {version}: `schema downgrade` goes no further back");
            print(output, &json!({ "finalised": version }), text)
        }
    }
}

/// The node's folder that a command is about.
const fn folder(command: &Schema) -> &SchemaStore {
    match command {
        Schema::Status(store) | Schema::Validate(store) | Schema::Finalise(store) => store,
        Schema::DryRun(args) => &args.store,
        Schema::Upgrade(args) => &args.store,
        Schema::Downgrade(args) => &args.store,
        Schema::Repair(args) => &args.store,
        Schema::Baseline(args) => &args.store,
        Schema::Backup(args) => &args.store,
        Schema::Restore(args) => &args.store,
    }
}

fn refused(error: UpgradeError) -> CliError {
    let exit = match error {
        UpgradeError::Io { .. } | UpgradeError::NoSpace { .. } | UpgradeError::Step { .. } => Exit::Failed,
        UpgradeError::Backup { .. } => Exit::BadFile,
        _ => Exit::DataDirectory,
    };
    CliError::new(exit, error.to_string())
}

/// The store of a node's folder. One that is not there is never made.
fn open(store: &SchemaStore) -> CliResult<Database> {
    let path = store.data_dir.join("store");
    // A restore that was cut between its two renames has left no store, but a note that opening it follows.
    if !path.is_dir() && !replace::is_unsettled(&path) {
        let problem = format!("{}: there is no store in it; give the node's own folder", store.data_dir.display());
        return Err(CliError::new(Exit::DataDirectory, problem));
    }
    Database::open_at(&path).map_err(refused)
}

fn print(output: Output, value: &Value, text: String) -> CliResult {
    output.print(&camel(value), |_| text);
    Ok(())
}

/// The crate's names as every other command's JSON spells them.
fn camel(value: &Value) -> Value {
    let name = |name: &String| {
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |so_far, word| {
            let (initial, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            so_far + &initial.to_uppercase() + rest
        })
    };
    match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (name(key), camel(value))).collect(),
        Value::Array(items) => items.iter().map(camel).collect(),
        other => other.clone(),
    }
}

fn options<'a>(database: &Database, no_backup: bool, observe: &'a mut dyn FnMut(&Progress)) -> Options<'a> {
    let backups = (!no_backup).then(|| backup::default_folder(database.path()));
    Options { backups, observe }
}

/// Progress goes to standard error: the result alone is on standard output.
fn tell(progress: &Progress) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{progress}");
}

fn status(plan: &Plan, database: &Database, output: Output) -> CliResult {
    let status = plan.status(database).map_err(refused)?;
    print(output, &json!(status), status_text(&status))
}

fn status_text(status: &Status) -> String {
    let mut lines = vec![format!("version    {} of {}", status.version, status.newest)];
    lines.push(format!("finalised  {}", status.finalised));
    lines.push(format!("back to    {}", status.downgrade_to));
    if let Some((version, chunks)) = status.interrupted {
        lines.push(format!("version {version} was interrupted after {chunks} chunks"));
    }
    let applied = status.applied.iter().map(|row| {
        let origin = format!("{:?}", row.origin).to_lowercase();
        vec![
            aurigraph_schema_upgrades::label(row.version, &row.name),
            origin,
            rfc3339(row.done_ms),
            row.checksum[..12].to_owned(),
        ]
    });
    let pending = status.pending.iter().map(|name| vec![name.clone(), "pending".to_owned()]);
    lines.push(table(&["step", "state", "when", "checksum"], &applied.chain(pending).collect::<Vec<_>>()));
    lines.join("\n")
}

fn validate(plan: &Plan, database: &Database, output: Output) -> CliResult {
    plan.validate(database).map_err(refused)?;
    let status = plan.status(database).map_err(refused)?;
    let pending = match status.pending.len() {
        0 => "nothing is pending".to_owned(),
        _ => format!("pending: {}; `schema upgrade` applies it", status.pending.join(", ")),
    };
    let text = format!("valid at version {}; {pending}", status.version);
    print(output, &json!({ "valid": true, "version": status.version, "pending": status.pending }), text)
}

fn dry_run(plan: &Plan, database: &Database, to: Option<u32>, output: Output) -> CliResult {
    let dry = plan.dry_run(database, to).map_err(refused)?;
    let heading = ["step", "added", "changed", "removed", "bytes", "chunks", "largest chunk", "took"];
    let rows = dry.steps.iter().map(|step| {
        let name = aurigraph_schema_upgrades::label(step.version, &step.name);
        let took = format!("{:.3} s", step.took.as_secs_f64());
        let numbers = [step.added, step.changed, step.removed].map(|number| number.to_string());
        let bytes = format!("{:+}", step.bytes_grown);
        [vec![name], numbers.to_vec(), vec![bytes, step.chunks.to_string(), step.largest_chunk.to_string(), took]]
            .concat()
    });
    let rows: Vec<_> = rows.collect();
    let (from, to) = (dry.from, dry.to);
    let first = format!("on a copy, from version {from} to {to}; the store itself is as it was");
    let text = if rows.is_empty() {
        format!("nothing is pending at version {from}")
    } else {
        first + "\n" + &table(&heading, &rows)
    };
    print(output, &json!(dry), text)
}

fn report(what: &str, report: &Report, output: Output) -> CliResult {
    let mut lines = Vec::new();
    if report.applied.is_empty() {
        lines.push(format!("nothing to {what}: the store is at version {}", report.from));
    } else {
        lines.push(format!("{what}d from version {} to {}", report.from, report.to));
    }
    lines.extend(report.resumed.map(|version| format!("version {version} went on where it was interrupted")));
    lines.extend(report.backup.as_ref().map(|file| format!("backup: {}", file.display())));
    print(output, &json!(report), lines.join("\n"))
}

fn repair(plan: &Plan, database: &Database, output: Output) -> CliResult {
    let findings = plan.repair(database).map_err(refused)?;
    let line = |finding: &Finding| {
        let mark = if finding.mended { "mended" } else { "not mended" };
        format!("{mark}: {}\n  {}", finding.found, finding.action)
    };
    let lines: Vec<String> = findings.iter().map(line).collect();
    let text = if lines.is_empty() { "nothing is wrong".to_owned() } else { lines.join("\n") };
    print(output, &json!({ "findings": findings }), text)?;
    match findings.iter().filter(|finding| !finding.mended).count() {
        0 => Ok(()),
        left => {
            Err(CliError::new(Exit::DataDirectory, format!("{left} of {} findings are not mended", findings.len())))
        }
    }
}

fn take_backup(plan: &Plan, database: &Database, out: Option<&Path>, output: Output) -> CliResult {
    let file = out.map_or_else(|| backup::new_file(database.path(), "by-hand"), Path::to_path_buf);
    let made = plan.backup(database, &file).map_err(refused)?;
    let content = &made.content;
    let text = format!(
        "{}: {} trees, {} keys, {} bytes, read back and whole\ndigest {}",
        made.file.display(),
        content.trees,
        content.pairs,
        content.bytes,
        content.digest
    );
    print(output, &json!(made), text)
}

fn restore_to(file: &Path, data_dir: &Path, output: Output) -> CliResult {
    if !data_dir.is_dir() {
        let problem = format!("{}: there is no such folder", data_dir.display());
        return Err(CliError::new(Exit::DataDirectory, problem));
    }
    let done = restore(file, &data_dir.join("store")).map_err(refused)?;
    let mut text = format!("restored version {} of {}", done.backup.head.version, rfc3339(done.backup.head.made_ms));
    if let Some(kept) = done.set_aside.as_deref() {
        text += &format!("\nwhat was there is kept in {}", kept.display());
    }
    print(output, &json!(done), text)
}
