//! The calls of containerd 2.2 and later and of CRI-O to the shim's binary, replayed byte for
//! byte: `-info`, bootstrap parameters on stdin, configurations in the runtime options, events
//! without a receiver.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use harness::bed::Bed;
use harness::dist::{self, SHIM, patience, subject, subject_is_ours};
use harness::process;
use harness::require;
use harness::run::{Input, Output, run};
use harness::scene::limit;
use harness::spec::Spec;
use harness::task::{Bundle, Code, Shim, Stdio};
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// A protobuf field of wire type 2, shorter than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// Options that name a configuration (field 2), or contain it (field 3).
fn options(number: u8, text: &str) -> Any {
    let mut value = vec![number << 3 | 2];
    let mut length = text.len();
    while length >= 0x80 {
        value.push(length as u8 | 0x80);
        length >>= 7;
    }
    value.push(length as u8);
    value.extend(text.bytes());
    Any {
        type_url: "runtimeoptions.v1.Options".into(),
        value,
        ..Any::default()
    }
}

fn bytes(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().expect("a message")
}

/// containerd 2.3's parameters for a container (pkg/shim/util.go `Command`).
fn params(bed: &Bed, id: &str, extensions: Vec<Any>) -> BootstrapParams {
    BootstrapParams {
        instance_id: id.into(),
        namespace: bed.namespace().into(),
        containerd_version: "2.3.0".into(),
        containerd_ttrpc_address: bed
            .dir()
            .join("containerd.sock.ttrpc")
            .display()
            .to_string(),
        containerd_grpc_address: bed.socket().display().to_string(),
        containerd_binary: "/usr/bin/containerd".into(),
        extensions: extensions
            .into_iter()
            .map(|value| Extension {
                value: MessageField::some(value),
                ..Extension::default()
            })
            .collect(),
        ..BootstrapParams::default()
    }
}

fn start(bed: &Bed, bundle: &Bundle, stdin: Vec<u8>) -> Output {
    let mut command = bundle.shim(bed, &subject());
    command.arg("start");
    run(command, Input::Bytes(stdin), patience(20.0))
}

/// The bed's own configuration and one more line.
fn config(bed: &Bed, line: &str) -> String {
    let own = fs::read_to_string(bed.dir().join("rust-kata.toml")).expect("the bed has one");
    format!("{line}\n{own}")
}

/// Runs the bundle's container to its end and removes it; returns its output.
fn life(bed: &Bed, shim: &Shim, bundle: &Bundle) -> String {
    let stdio = Stdio::new(bed);
    shim.create(bundle, Some(&stdio), false).expect("create");
    shim.start_process(&bundle.id, "").expect("start");
    let said = stdio.out.finish(limit()).text();
    shim.wait(&bundle.id, "").expect("wait");
    shim.delete(&bundle.id, "").expect("delete");
    said
}

fn gone(pid: u32, what: &str) {
    assert!(
        process::wait_gone(pid, patience(15.0)),
        "{what} is still there"
    );
}

#[test]
fn info_tells_what_the_runtime_can_do() {
    require!(subject_is_ours());
    let info = |stdin: Vec<u8>| {
        let mut command = Command::new(dist::binary(SHIM));
        // A broken configuration does not prevent an answer.
        command.arg("-info").env("RUST_KATA_CONFIG", "/nonexistent");
        let output = run(command, Input::Bytes(stdin), patience(10.0)).ok();
        assert_eq!(output.err(), "");
        output.stdout.bytes
    };

    let plain = info(Vec::new());

    let version = field(1, env!("CARGO_PKG_VERSION").as_bytes());
    let head = [field(1, b"io.containerd.rust-kata.v2"), field(2, &version)].concat();
    assert_eq!(plain[..head.len()], head);
    let told = RuntimeInfo::parse_from_bytes(&plain).expect("a RuntimeInfo");
    assert_eq!(told.features.type_url, FEATURES);
    let features: Value = serde_json::from_slice(&told.features.value).expect("JSON");
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(
        features["linux"]["mountExtensions"]["idmap"]["enabled"],
        false
    );

    // The answer repeats any options; the rest stays the same.
    for given in [options(2, "/nonexistent"), options(3, "nonsense =")] {
        let told = RuntimeInfo::parse_from_bytes(&info(bytes(&given))).expect("a RuntimeInfo");
        assert_eq!(told.options.as_ref(), Some(&given));
    }
    assert_eq!(info(b"\xff\xff".to_vec()), plain);
}

#[test]
fn bootstrap_parameters_are_read_and_answered() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let file = bed.fresh("named.toml");
    fs::write(&file, config(&bed, "vcpus = 2")).expect("the bed is ours");
    let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["nproc"]));
    let foreign = Any {
        type_url: "containerd.io/nri.v1.PluginConfig".into(),
        value: b"\xff".into(),
        ..Any::default()
    };
    let named = options(2, file.to_str().expect("an ASCII path"));
    let mut params = params(&bed, "c", vec![foreign, named]);
    let sockets = bed.dir().join("sockets");
    params.set_socket_dir(sockets.display().to_string());

    // The parameters replace the flags of the command line.
    let mut command = Command::new(dist::binary(SHIM));
    command
        .current_dir(&bundle.path)
        .envs(bed.environment())
        .args(["-namespace", bed.namespace(), "-id", "c", "start"]);
    let output = run(command, Input::Bytes(bytes(&params)), patience(20.0)).ok();

    let answer =
        BootstrapResult::parse_from_bytes(&output.stdout.bytes).expect("a BootstrapResult");
    assert!(
        answer
            .address
            .starts_with(&format!("unix://{}/", sockets.display())),
        "{answer}"
    );
    let exact = [
        vec![1 << 3, 3],
        vec![2 << 3 | 2, answer.address.len() as u8],
        answer.address.clone().into_bytes(),
        field(3, b"ttrpc"),
    ]
    .concat();
    assert_eq!(output.stdout.bytes, exact);
    assert_eq!(output.err(), "");
    let shim = Shim::connect(&answer.address);
    assert_eq!(life(&bed, &shim, &bundle), "2\n");
    let _ = shim.shutdown("c");
    // Events are delivered, too.
    let exit = |event: &harness::events::Event| event.topic == "/tasks/exit";
    assert!(
        bed.events.wait(patience(10.0), exit).is_some(),
        "no exit event"
    );
    bed.assert_clean();
}

#[test]
fn a_configuration_in_the_options_themselves_is_used() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["nproc"]));
    let body = options(3, &config(&bed, "vcpus = 2"));

    let output = start(&bed, &bundle, bytes(&body)).ok();

    let address = output.out();
    assert!(
        address.starts_with("unix:///run/containerd/s/"),
        "{address}"
    );
    let shim = Shim::connect(&address);
    assert_eq!(life(&bed, &shim, &bundle), "2\n");
    let _ = shim.shutdown("c");
    bed.assert_clean();

    // A wrong parameter gives an error, and nothing is started.
    let wrong = Bundle::of(&bed, "w", &Spec::new(&bed.rootfs(), &["nproc"]));
    let output = start(&bed, &wrong, bytes(&options(3, "vcpu = 2\n")));
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.err().contains("vcpus"), "{output:?}");
    bed.assert_clean();
}

/// containerd 2.0 to 2.3 with a shim of version 3: it does not call `start` for further
/// containers of a pod, and does not send a Shutdown after their ends, only after the removal
/// of the sandbox.
#[test]
fn a_pod_of_version_3_ends_with_its_last_container() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let sleeper =
        |spec: fn(Spec, &str) -> Spec| spec(Spec::new(&bed.rootfs(), &["sleep", "1000"]), "pod");
    let sandbox = Bundle::of(&bed, "pod", &sleeper(Spec::sandbox));
    let app = Bundle::of(&bed, "app", &sleeper(Spec::in_pod));
    let output = start(&bed, &sandbox, bytes(&params(&bed, "pod", vec![]))).ok();
    let answer =
        BootstrapResult::parse_from_bytes(&output.stdout.bytes).expect("a BootstrapResult");
    let shim = Shim::connect(&answer.address);
    for bundle in [&sandbox, &app] {
        shim.create(bundle, None, false).expect("create");
        shim.start_process(&bundle.id, "").expect("start");
    }
    let pid = shim.connect_task("pod").expect("connect").shim_pid;

    shim.kill("pod", "", 9, true).expect("kill");
    shim.wait("pod", "").expect("wait");
    shim.delete("pod", "").expect("delete");
    shim.shutdown("pod").expect("shutdown");
    // The other one still runs; the pod ends with it.
    assert!(shim.kill("app", "", 0, false).is_ok());
    shim.kill("app", "", 9, true).expect("kill");
    shim.wait("app", "").expect("wait");
    shim.delete("app", "").expect("delete");

    gone(pid, "the shim");
    bed.assert_clean();
}

/// CRI-O's calls (internal/oci/runtime_vm.go), with its own annotations.
#[test]
fn cri_o_gets_files_instead_of_events() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let published = bed.fresh("published");
    let publisher = bed.fresh("crio");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", published.display());
    fs::write(&publisher, script).expect("the bed is ours");
    fs::set_permissions(&publisher, fs::Permissions::from_mode(0o755)).expect("the bed is ours");
    let start = |bundle: &Bundle| {
        let mut command = Command::new(dist::binary(SHIM));
        command
            .current_dir(&bundle.path)
            .envs(bed.environment())
            .env("TTRPC_ADDRESS", "")
            .args(["-namespace", bed.namespace(), "-address", ""])
            .arg("-publish-binary")
            .arg(&publisher)
            .args(["-id", &bundle.id, "start"]);
        run(command, Input::Null, patience(20.0)).ok().out()
    };
    let annotated = |argv: &[&str], kind: &str| {
        Spec::new(&bed.rootfs(), argv)
            .set(
                "/annotations/io.kubernetes.cri-o.ContainerType",
                json!(kind),
            )
            .set("/annotations/io.kubernetes.cri-o.SandboxID", json!("pod"))
    };
    let infra = Bundle::of(&bed, "pod", &annotated(&["sleep", "1000"], "sandbox"));
    let hungry = annotated(&["sh", "-c", "tail /dev/zero"], "container").set(
        "/linux/resources/memory",
        json!({ "limit": 32 << 20, "swap": 32 << 20 }),
    );
    let app = Bundle::of(&bed, "app", &hungry);

    let address = start(&infra);
    let shim = Shim::connect(&address);
    shim.create(&infra, None, false).expect("create");
    shim.start_process("pod", "").expect("start");
    // Each container has a `start` of its own, which finds the same shim.
    assert_eq!(start(&app), address);
    shim.create(&app, None, false).expect("create");
    shim.start_process("app", "").expect("start");
    assert_eq!(shim.wait("app", "").expect("wait").exit_status, 137);
    // CRI-O checks for the file at this point at the latest.
    let told = |bundle: &Bundle| bundle.path.join("oom").exists();
    assert!(told(&app), "no oom file");
    assert!(!told(&infra));
    // Signal 0 checks whether a process lives.
    shim.kill("pod", "", 0, false)
        .expect("the infra container lives");
    let dead = shim.kill("app", "", 0, false).expect_err("it is dead");
    assert_eq!(dead.code, Code::NOT_FOUND);
    // After its restart, CRI-O finds the shim by the bundle.
    for bundle in [&infra, &app] {
        assert_eq!(recorded(&bundle.path), address);
    }
    let pid = shim.connect_task("pod").expect("connect").shim_pid;

    shim.delete("app", "").expect("delete");
    shim.shutdown("app").expect("shutdown");
    shim.kill("pod", "", 9, false).expect("kill");
    shim.wait("pod", "").expect("wait");
    shim.delete("pod", "").expect("delete");
    let _ = shim.shutdown("pod");

    gone(pid, "the shim");
    assert!(!published.exists(), "{:?}", fs::read_to_string(&published));
    bed.assert_clean();
}

fn recorded(bundle: &Path) -> String {
    fs::read_to_string(bundle.join("address")).expect("an address")
}
