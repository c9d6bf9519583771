//! A small disk for one node, filled and emptied at will, where the system lets a test mount one: a memory file system
//! in a mount namespace that a helper process holds. Nothing is left of it once the helper has ended.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A file system of fixed size over one folder, seen only by processes started through [`SmallDisk::wrapper`].
pub struct SmallDisk {
    holder: Child,
    folder: PathBuf,
    own_user: bool,
}

impl SmallDisk {
    /// Mounts one of `mebibytes` over a folder, which is made; none, with the reason printed, if that is not permitted.
    #[must_use]
    pub fn mount(folder: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        // As root at once, for everybody else with a user namespace of their own.
        [false, true].into_iter().find_map(|own_user| Self::try_mount(folder, mebibytes, own_user))
    }

    fn try_mount(folder: &Path, mebibytes: u32, own_user: bool) -> Option<Self> {
        let mut command = Command::new("unshare");
        command.arg("--mount").args(own_user.then_some("--map-root-user"));
        command.args(["sh", "-c", "mount -t tmpfs -o size=\"$2\" none \"$1\" && echo mounted && read -r _", "sh"]);
        command.arg(folder).arg(format!("{mebibytes}m")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut holder) = command.stderr(Stdio::piped()).spawn() else {
            println!("no small disk: there is no `unshare` here");
            return None;
        };
        let mut said = String::new();
        BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut said).unwrap();
        if said.trim() == "mounted" {
            return Some(Self { holder, folder: folder.to_owned(), own_user });
        }
        let output = holder.wait_with_output().unwrap();
        println!("no small disk (own user: {own_user}): {}", String::from_utf8_lossy(&output.stderr).trim());
        None
    }

    /// The command by way of which a process sees the disk.
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), "--mount".to_owned()];
        if self.own_user {
            words.extend(["--user".to_owned(), "--preserve-credentials".to_owned()]);
        }
        words.extend(["--target".to_owned(), self.holder.id().to_string(), "--".to_owned()]);
        words
    }

    fn run(&self, script: &str) {
        let wrapper = self.wrapper();
        let mut command = Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).args(["sh", "-c", script, "sh"]).arg(&self.folder);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Takes all of the disk but so many mebibytes.
    pub fn fill_but(&self, mebibytes: u32) {
        self.run(&format!(
            "free=$(df -k --output=avail \"$1\" | tail -1) && \
             head -c $(( (free - {mebibytes} * 1024) * 1024 )) /dev/zero > \"$1/ballast\""
        ));
    }

    /// Has the disk refuse all writes, or take them again. None of its files may be open for writing.
    pub fn read_only(&self, refuse: bool) {
        self.run(&format!("mount -o remount,{} \"$1\"", if refuse { "ro" } else { "rw" }));
    }

    /// Gives back what [`SmallDisk::fill_but`] took.
    pub fn make_room(&self) {
        self.run("rm \"$1/ballast\"");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Its namespace, and with it the mount, ends once no node is in it any more.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
