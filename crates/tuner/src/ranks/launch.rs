//! How the environment describes a group: the variables of MLX's launcher, and those of `mpirun`.

use std::path::PathBuf;

use mlx_ext::Transport;

use crate::error::{Error, Result};

/// A group of processes to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) transport: Transport,
    /// Names or addresses under which the others may reach rank 0, as far as the environment tells.
    pub(super) hosts: Vec<String>,
}

/// Returns the group that the variables describe; `None` for a process on its own.
///
/// # Errors
///
/// Fails when the variables contradict each other, or when the file with the hosts is wrong.
pub(super) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
    let transport = if variable("MLX_HOSTFILE").is_some() {
        Transport::Ring
    } else if variable("NCCL_HOST_IP").is_some() && variable("MLX_WORLD_SIZE").is_some() {
        Transport::Nccl
    } else if variable("MLX_JACCL_COORDINATOR").is_some() {
        Transport::Jaccl
    } else if variable("OMPI_COMM_WORLD_SIZE").is_some() {
        Transport::Mpi
    } else {
        return Ok(None);
    };
    let (size, hosts) = match transport {
        Transport::Ring => hosts_of(&PathBuf::from(variable("MLX_HOSTFILE").unwrap_or_default()))?,
        Transport::Mpi => (number(variable, "OMPI_COMM_WORLD_SIZE")?, Vec::new()),
        Transport::Nccl => {
            (number(variable, "MLX_WORLD_SIZE")?, variable("NCCL_HOST_IP").into_iter().collect())
        }
        // Its size is in a file of MLX's.
        Transport::Jaccl => {
            (usize::MAX, variable("MLX_JACCL_COORDINATOR").iter().map(|at| host(at)).collect())
        }
    };
    if transport != Transport::Mpi {
        let rank = number(variable, "MLX_RANK")?;
        if rank >= size {
            return Err(Error::settings(
                format!("`MLX_RANK` is {rank}, but there are only {size} ranks"),
                "number the ranks from 0",
            ));
        }
    }
    Ok((size > 1).then_some(Launch { transport, hosts }))
}

fn number(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<usize> {
    let Some(text) = variable(name) else {
        return Err(Error::settings(
            format!("`{name}` is not set, but other variables start a run over several ranks"),
            "set it for each process, or unset `MLX_HOSTFILE`, `MLX_WORLD_SIZE` and `MLX_JACCL_COORDINATOR`",
        ));
    };
    text.trim().parse().map_err(|_| {
        Error::settings(format!("`{name}` is `{text}`, not a number"), "number the ranks from 0")
    })
}

/// Returns the number of ranks in a host file, and the hosts of rank 0.
fn hosts_of(path: &std::path::Path) -> Result<(usize, Vec<String>)> {
    let shown = path.display();
    let wrong = |reason: String| {
        Error::settings(
            format!("host file `{shown}`: {reason}"),
            "list the addresses of each rank, such as `[[\"10.0.0.1:5000\"], [\"10.0.0.2:5000\"]]`",
        )
    };
    let text = fs_err::read_to_string(path).map_err(|error| wrong(failure::describe(&error)))?;
    let ranks: Vec<Vec<String>> = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if let Some(rank) = ranks.iter().position(Vec::is_empty) {
        return Err(wrong(format!("rank {rank} has no address")));
    }
    let is_address = |address: &&String| {
        address.split_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if let Some(address) = ranks.iter().flatten().find(|address| !is_address(address)) {
        return Err(wrong(format!("`{address}` is not an address and a port")));
    }
    let hosts = ranks.first().into_iter().flatten().map(|address| host(address)).collect();
    Ok((ranks.len(), hosts))
}

/// Returns an address without its port.
fn host(address: &str) -> String {
    address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn launched(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        from_variables(&|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn a_process_on_its_own_has_no_group() -> Result<()> {
        assert_eq!(launched(&[])?, None);
        assert_eq!(launched(&[("MLX_RANK", "0")])?, None);
        assert_eq!(launched(&[("OMPI_COMM_WORLD_SIZE", "1")])?, None);
        Ok(())
    }

    #[test]
    fn each_launcher_is_recognized() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("hosts.json");
        fs_err::write(&file, r#"[["10.0.0.1:5000", "10.1.0.1:5000"], ["10.0.0.2:5000"]]"#)?;
        let file = file.to_str().expect("UTF-8");
        let ring = launched(&[("MLX_HOSTFILE", file), ("MLX_RANK", "1")])?.expect("a group");
        assert_eq!(
            (ring.transport, ring.hosts.as_slice()),
            (Transport::Ring, &["10.0.0.1".into(), "10.1.0.1".into()][..])
        );
        let mpi = launched(&[("OMPI_COMM_WORLD_SIZE", "4")])?.expect("a group");
        assert_eq!(mpi.transport, Transport::Mpi);
        let nccl = [("NCCL_HOST_IP", "10.0.0.1"), ("MLX_WORLD_SIZE", "8"), ("MLX_RANK", "7")];
        assert_eq!(launched(&nccl)?.expect("a group").transport, Transport::Nccl);
        Ok(())
    }

    #[test]
    fn wrong_variables_and_host_files_are_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let refused = |text: &str, rank: Option<&str>| {
            let file = folder.path().join("hosts.json");
            fs_err::write(&file, text).expect("a file");
            let file = file.to_str().expect("UTF-8").to_owned();
            let variables =
                [("MLX_HOSTFILE", file.as_str())].into_iter().chain(rank.map(|rank| ("MLX_RANK", rank)));
            launched(&variables.collect::<Vec<_>>()).expect_err("it is wrong").to_string()
        };
        let two = r#"[["a:1"], ["b:2"]]"#;
        assert!(refused(two, None).contains("`MLX_RANK` is not set"));
        assert!(refused(two, Some("2")).contains("only 2 ranks"));
        assert!(refused(two, Some("one")).contains("not a number"));
        assert!(refused(r#"[["a:1"], []]"#, Some("0")).contains("rank 1 has no address"));
        assert!(refused(r#"[["a:1"], ["b"]]"#, Some("0")).contains("`b` is not an address"));
        assert!(refused("{}", Some("0")).contains("hosts.json"));
        let missing = launched(&[("MLX_HOSTFILE", "/nowhere/hosts.json"), ("MLX_RANK", "0")]);
        assert!(missing.expect_err("no file").to_string().contains("/nowhere/hosts.json"));
        Ok(())
    }
}
