//! The file system under a database: its kind, its free space, the folder for temporary files.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::open_error::{open_error, refuse};
use crate::error::{Error, Result};

/// Whether `path` itself is a mount point. Kernels older than 5.8 do not report it.
#[cfg(target_os = "linux")]
pub(super) fn is_mount_root(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_mount_root(_path: &Path) -> bool {
    false
}

/// SQLite would only report that it cannot open the file.
pub(super) fn check_writable(folder: &Path, path: &Path) -> Result<()> {
    match rustix::fs::statvfs(folder) {
        Ok(stat) if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => Err(refuse(
            path,
            "its file system is mounted read-only, and a WAL must be written: mount it for writing, or copy the file",
        )),
        Ok(_) => Ok(()),
        Err(e) => Err(open_error(path, "its file system cannot be examined", e.into())),
    }
}

/// The bytes of a file system.
#[derive(Clone, Copy)]
pub(crate) struct Space {
    /// What this process may still use.
    pub(crate) available: u64,
    pub(crate) total: u64,
}

/// The space on the file system of a folder, if the system knows.
pub(crate) fn space(folder: &Path) -> Option<Space> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(Space {
        available: stat.f_bavail.checked_mul(stat.f_frsize)?,
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// The bytes that are available in a folder, if they are fewer than needed.
pub(crate) fn lacks(folder: &Path, needed: u64) -> Option<u64> {
    let available = space(folder)?.available;
    (available < needed).then_some(available)
}

/// The folder that SQLite puts temporary files in: "the first of these which is an existing directory with write and
/// execute permission", <https://sqlite.org/tempfiles.html#tempdir>.
pub(crate) fn temporary_folder() -> Option<PathBuf> {
    let named = ["SQLITE_TMPDIR", "TMPDIR"].into_iter().filter_map(std::env::var_os);
    let usual = ["/var/tmp", "/usr/tmp", "/tmp", "."].into_iter().map(Into::into);
    let usable =
        |folder: &PathBuf| folder.is_dir() && rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    named.chain(usual).map(PathBuf::from).find(usable)
}

/// File systems on which two descriptors of one file do not share memory or locks, by the magic number of `statfs(2)`.
#[cfg(target_os = "linux")]
const UNSUPPORTED: &[(u32, &str)] = &[
    (0x0000_6969, "NFS"),
    (0xff53_4d42, "SMB (cifs)"),
    (0xfe53_4d42, "SMB 2"),
    (0x0000_517b, "SMB (smbfs)"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE or virtiofs"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x564c, "NCP"),
    (0x7375_7245, "Coda"),
    (0x786f_4256, "VirtualBox shared folders"),
    (0xbacb_acbc, "VMware shared folders"),
];

#[cfg(target_os = "linux")]
pub(super) fn check_filesystem(folder: &Path, path: &Path) -> Result<()> {
    let stat = rustix::fs::statfs(folder)
        .map_err(|e| open_error(path, "the kind of its file system cannot be found out", e.into()))?;
    match unsupported(stat.f_type as u32) {
        None => Ok(()),
        Some(name) => Err(Error::UnsupportedFilesystem {
            path: path.into(),
            filesystem: name.into(),
        }),
    }
}

#[cfg(target_os = "linux")]
fn unsupported(magic: u32) -> Option<&'static str> {
    UNSUPPORTED
        .iter()
        .find(|(known, _)| *known == magic)
        .map(|(_, name)| *name)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn check_filesystem(_folder: &Path, _path: &Path) -> Result<()> {
    Ok(())
}

/// Whether a folder is in memory.
#[cfg(target_os = "linux")]
pub(super) fn is_in_memory(folder: &Path) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    rustix::fs::statfs(folder).is_ok_and(|stat| stat.f_type as u32 == TMPFS)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_in_memory(_folder: &Path) -> bool {
    false
}

/// Whether a descriptor to read and one to write may be of two files: overlayfs copies a file of a lower layer when it is
/// first opened to write, and a memory map of the original does not change any more.
#[cfg(target_os = "linux")]
pub(super) fn copies_at_first_write(path: &Path) -> bool {
    const OVERLAYFS: u32 = 0x794c_7630;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u32 == OVERLAYFS)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn copies_at_first_write(_path: &Path) -> bool {
    false
}

/// The name of the file's file system, if a WAL is not safe on it.
#[cfg(target_os = "linux")]
pub(crate) fn unsafe_filesystem(path: &Path) -> Option<&'static str> {
    let stat = rustix::fs::statfs(path.parent()?).ok()?;
    unsupported(stat.f_type as u32)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unsafe_filesystem(_path: &Path) -> Option<&'static str> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_recognized_by_magic() {
        // linux/magic.h: NFS_SUPER_MAGIC, CIFS, V9FS_MAGIC, FUSE_SUPER_MAGIC (virtiofs shows the same).
        for (magic, name) in [(0x6969, "NFS"), (0xff53_4d42, "SMB (cifs)"), (0x0102_1997, "9p")] {
            assert_eq!(unsupported(magic), Some(name));
        }
        assert!(unsupported(0x6573_5546).is_some_and(|name| name.contains("FUSE")));
        // ext4, xfs, btrfs, tmpfs, overlayfs, zfs
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(unsupported(magic), None, "{magic:x}");
        }
    }
}
