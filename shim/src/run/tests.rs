//! What a run is made of, without a VM.

use super::*;

#[test]
fn codes_of_failures() {
    let missing = Error::Runtime(runtime::Error::Command {
        exit_code: 127,
        message: "exec: \"nope\": executable file not found in $PATH".into(),
    });
    assert_eq!(code_of(&missing), 127);
    let own = Error::Runtime(runtime::Error::NoFreeName { what: "pod" });
    assert_eq!(code_of(&own), 125);
}

#[test]
fn arguments() {
    let args = Args::try_parse_from([
        "run",
        "--bundle",
        "b",
        "--hypervisor",
        "qemu",
        "--memory",
        "64",
    ])
    .unwrap();
    assert_eq!(args.memory, Some(64));
    assert_eq!(args.hypervisor, Some(HypervisorKind::Qemu));
    use clap::error::ErrorKind;
    let refused = |words: &[&str]| Args::try_parse_from(words).err().unwrap().kind();
    assert_eq!(refused(&["run"]), ErrorKind::MissingRequiredArgument);
    let number = refused(&["run", "--bundle", "b", "--vcpus", "x"]);
    assert_eq!(number, ErrorKind::ValueValidation);
}

#[test]
fn a_bundle_that_is_not_there() {
    let words = ["run", "--bundle", "/nonexistent"].map(str::to_owned);
    assert_eq!(run(words), OWN_ERROR);
}

fn bundle(process: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!(
        r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},
            "process":{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["true"]{process}}},
            "annotations":{{"{VCPUS}":"2"}},
            "linux":{{"namespaces":[{{"type":"pid"}},{{"type":"network"}},{{"type":"ipc"}},
             {{"type":"uts"}},{{"type":"mount"}}]}}}}"#
    );
    std::fs::write(dir.path().join("config.json"), spec).unwrap();
    std::fs::write(dir.path().join("config.toml"), "hypervisor = \"kvm\"\n").unwrap();
    dir
}

fn session(bundle: &tempfile::TempDir, words: &[&str]) -> Result<Session> {
    let path = bundle.path().to_str().unwrap();
    let config = bundle.path().join("config.toml");
    let fixed = [
        "run",
        "--bundle",
        path,
        "--config",
        config.to_str().unwrap(),
    ];
    Session::new(Args::try_parse_from(fixed.iter().chain(words)).unwrap())
}

#[test]
fn the_command_line_overrides_the_bundle_and_the_configuration() {
    let dir = bundle("");
    let plain = session(&dir, &[]).unwrap();
    let name = dir.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(plain.id, format!("{name}-{}", std::process::id()));
    assert_eq!(plain.config.hypervisor, HypervisorKind::Kvm);
    assert_eq!(plain.pod.managed_by, ManagedBy::Run);
    assert_eq!(
        (plain.pod.namespace.as_str(), &plain.pod.id),
        (NAMESPACE, &plain.id)
    );
    assert!(!plain.terminal && plain.steps.progress().is_none());
    let label = |session: &Session, name: &str| session.pod.labels.get(name).cloned();
    assert_eq!(label(&plain, MEMORY), None);

    let words = [
        "--id",
        "x",
        "--hypervisor",
        "qemu",
        "--memory",
        "99",
        "--vcpus",
        "3",
    ];
    let given = session(&dir, &words).unwrap();
    assert_eq!((given.id.as_str(), given.pod.id.as_str()), ("x", "x"));
    assert_eq!(given.config.hypervisor, HypervisorKind::Qemu);
    assert_eq!(label(&given, MEMORY).as_deref(), Some("99"));
    assert_eq!(label(&given, VCPUS).as_deref(), Some("3"));
    assert!(Steps::new(true).progress().is_some());
}

#[test]
fn a_terminal_is_used_where_the_bundle_asks_for_one() {
    assert!(
        session(&bundle(r#","terminal":true"#), &[])
            .unwrap()
            .terminal
    );
    assert!(
        !session(&bundle(r#","terminal":false"#), &[])
            .unwrap()
            .terminal
    );
    let mut spec = Spec::default();
    spec.set_process(None);
    assert!(!wants_terminal(&spec));
    let terminal = own_stdio(true).unwrap();
    assert!(terminal.terminal && matches!(terminal.stderr, Endpoint::None));
    let plain = own_stdio(false).unwrap();
    assert!(!plain.terminal && matches!(plain.stderr, Endpoint::Fd(_)));
}
