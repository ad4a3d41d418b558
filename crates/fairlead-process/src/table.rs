//! The system's process table, as far as it is needed to find who descends from whom.

/// One process of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// When it began, in clock ticks since the system did.
    pub(crate) started: u64,
    /// The short name the kernel keeps, at most 15 bytes.
    pub(crate) name: String,
}

/// Every process that could be seen. A process may come or go while the table is read, so one reading proves nothing about
/// absence. Empty where there is no `/proc`.
pub(crate) fn read() -> Vec<Entry> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter(|process| process.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit))
        .filter_map(|process| std::fs::read(process.path().join("stat")).ok())
        .filter_map(|stat| parse(&String::from_utf8_lossy(&stat)))
        .collect()
}

/// `pid (name) state parent group session ...`, the start as field 22 (proc_pid_stat(5)); the name may hold spaces and
/// parentheses itself.
fn parse(stat: &str) -> Option<Entry> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    Some(Entry { pid: pid.parse().ok()?, parent, session, started, name: name.to_owned() })
}

/// The process ids of `roots` and of everything below them in `table`, each once.
pub(crate) fn with_descendants(table: &[Entry], roots: impl IntoIterator<Item = i32>) -> Vec<i32> {
    let mut family: Vec<i32> = roots.into_iter().collect();
    family.sort_unstable();
    family.dedup();
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        for entry in table.iter().filter(|entry| entry.parent == parent) {
            if !family.contains(&entry.pid) {
                family.push(entry.pid);
            }
        }
        next += 1;
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let rest = "0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 100";
        let entry = |pid, name: &str, parent, session| {
            Some(Entry { pid, parent, session, started: 4711, name: name.to_owned() })
        };
        assert_eq!(parse(&format!("7 (sh) S 1 7 5 {rest}")), entry(7, "sh", 1, 5));
        assert_eq!(parse(&format!("8 (a) R 9 (b c) S 3 8 4 {rest}")), entry(8, "a) R 9 (b c", 3, 4));
        assert_eq!(parse("7 (sh) S 1 7 5 0 -1"), None);
        assert_eq!(parse("8 (cut"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_family_is_found_whole_and_once() {
        let entry = |pid, parent| Entry { pid, parent, session: 1, started: 0, name: String::new() };
        // 5 and 6 name each other as parent, as a torn reading of the table can show.
        let table = [entry(2, 1), entry(4, 3), entry(3, 2), entry(5, 6), entry(6, 5), entry(9, 1)];
        assert_eq!(with_descendants(&table, [2]), [2, 3, 4]);
        assert_eq!(with_descendants(&table, [3, 2, 2]), [2, 3, 4]);
        assert_eq!(with_descendants(&table, [5]), [5, 6]);
        assert_eq!(with_descendants(&table, []), [0; 0]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_in_the_table() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(read().iter().any(|entry| entry.pid == own));
    }
}
