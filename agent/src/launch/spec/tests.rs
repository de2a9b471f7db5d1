//! What of a spec is kept, given to libcontainer, and refused.

use super::*;
use protos::agent::Stdio;

fn spec(linux: &str, process: &str) -> Vec<u8> {
    format!(
        r#"{{"ociVersion":"1.0.2","root":{{"path":"/"}},
            "process":{{"user":{{"uid":0,"gid":0}},"cwd":"/tmp"{process}}},
            "linux":{{"cgroupsPath":"/pod/c1"{linux}}}}}"#
    )
    .into_bytes()
}

const ARGS: &str = r#","args":["true"],"rlimits":[{"type":"RLIMIT_NOFILE","soft":5,"hard":6}]"#;
const NAMESPACES: &str = r#","namespaces":[{"type":"mount"},{"type":"pid"}]"#;

fn refusal(linux: &str, process: &str) -> Error {
    plan("c1", &spec(linux, process), &Stdio::new()).unwrap_err()
}

/// The field of a refused value.
fn field(error: Error) -> String {
    match error {
        Error::InvalidValue { field, .. } => field.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn cgroup_and_last_steps_are_kept_from_libcontainer() {
    let linux = format!(
        r#"{NAMESPACES},"resources":{{"pids":{{"limit":7}}}},
           "sysctl":{{"net.ipv4.ip_forward":"1","kernel.msgmax":"9"}},
           "seccomp":{{"defaultAction":"SCMP_ACT_ALLOW"}}"#
    );
    let terminal = Stdio {
        terminal: true,
        ..Default::default()
    };
    let plan = plan("c1", &spec(&linux, ARGS), &terminal).unwrap();
    let linux = plan.spec.linux().as_ref().unwrap();
    assert!(linux.resources().is_none() && linux.seccomp().is_none());
    assert_eq!(plan.resources.pids().unwrap().limit(), 7);
    assert_eq!(linux.sysctl().as_ref().unwrap().len(), 1);
    assert_eq!(plan.net_sysctls.len(), 1);
    assert!(plan.private_pid_namespace);
    let process = plan.spec.process().as_ref().unwrap();
    assert_eq!(process.cwd(), Path::new("/"));
    assert!(process.rlimits().is_none());
    assert_eq!(process.terminal(), Some(true));
    assert_eq!(plan.launch.process.cwd(), Path::new("/tmp"));
    assert!(plan.launch.seccomp.is_some());
}

#[test]
fn execs_inherit_what_they_do_not_set() {
    let plan = plan("c1", &spec(NAMESPACES, ARGS), &Stdio::new()).unwrap();
    let process = br#"{"user":{"uid":1,"gid":2},"cwd":"/","args":["id"]}"#;
    let (_, launch) = plan_exec(process, &Stdio::new(), &plan.inherited).unwrap();
    assert_eq!(launch.process.rlimits().as_ref().unwrap()[0].soft(), 5);
    assert!(!launch.make_cwd);
}

#[test]
fn what_cannot_be_followed_is_named() {
    assert!(matches!(refusal("", ARGS), Error::Requires { .. }));
    let refused = refusal(NAMESPACES, "");
    assert!(matches!(refused, Error::Missing("process.args")));
    let refused = refusal(r#","namespaces":[{"type":"user"}]"#, ARGS);
    assert!(matches!(refused, Error::Unsupported(_)));
    let limits = r#","args":["a"],"rlimits":[{"type":"RLIMIT_CPU","soft":9,"hard":6}]"#;
    assert_eq!(
        field(refusal(NAMESPACES, limits)),
        "soft limit of RLIMIT_CPU"
    );
    for user in [
        r#"{"uid":4294967295,"gid":0}"#,
        r#"{"uid":1,"gid":4294967295}"#,
        r#"{"uid":1,"gid":2,"additionalGids":[4294967295]}"#,
    ] {
        let process = format!(r#"{{"user":{user},"cwd":"/","args":["id"]}}"#);
        let refused = plan_exec(process.as_bytes(), &Stdio::new(), &Inherited::default());
        assert_eq!(field(refused.unwrap_err()), "process.user");
    }
    let cut = plan("c1", b"{\"ociVersion\":", &Stdio::new()).unwrap_err();
    assert!(matches!(cut, Error::Document { what, .. } if what == "OCI spec"));
}

#[test]
fn missing_bind_sources_are_named() {
    let mut json: serde_json::Value = serde_json::from_slice(&spec(NAMESPACES, ARGS)).unwrap();
    json["mounts"] = serde_json::json!([
        {"destination": "/data", "type": "bind", "source": "/no/such", "options": ["rbind"]}
    ]);
    let error = plan("c1", json.to_string().as_bytes(), &Stdio::new()).unwrap_err();
    assert!(
        matches!(&error, Error::NotInGuest { path, .. } if path == Path::new("/no/such")),
        "{error}"
    );
}

#[test]
fn a_limit_may_be_hard_and_ids_as_high_as_the_kernel_takes() {
    let limits = r#","args":["a"],"rlimits":[{"type":"RLIMIT_CPU","soft":6,"hard":6}]"#;
    plan("c1", &spec(NAMESPACES, limits), &Stdio::new()).unwrap();
    let user = r#"{"user":{"uid":4294967294,"gid":4294967294},"cwd":"/","args":["id"]}"#;
    plan_exec(user.as_bytes(), &Stdio::new(), &Inherited::default()).unwrap();
}

#[test]
fn paths_and_words_are_checked() {
    let with = |key: &str, value: serde_json::Value| {
        let mut json: serde_json::Value = serde_json::from_slice(&spec(NAMESPACES, ARGS)).unwrap();
        *json.pointer_mut(key).unwrap() = value;
        plan("c1", json.to_string().as_bytes(), &Stdio::new())
    };
    let relative = with("/root/path", "rootfs".into()).unwrap_err();
    assert_eq!(field(relative), "root.path");
    for nothing in ["/no/such", "/etc/passwd"] {
        let missing = with("/root/path", nothing.into()).unwrap_err();
        assert!(
            matches!(&missing, Error::NotInGuest { path, .. } if path == Path::new(nothing)),
            "{missing}"
        );
    }
    assert!(matches!(
        with("/root", serde_json::Value::Null),
        Err(Error::Missing("root"))
    ));
    let cwd = with("/process/cwd", "tmp".into()).unwrap_err();
    assert_eq!(field(cwd), "process.cwd");
    let empty = with("/process/args", serde_json::json!([])).unwrap_err();
    assert!(matches!(empty, Error::Missing("process.args")));
    let nul = with("/process/args", serde_json::json!(["a", "b\0c"])).unwrap_err();
    assert_eq!(field(nul), "process.args or env");
    let cgroup = with("/linux/cgroupsPath", "/../x".into()).unwrap_err();
    assert_eq!(field(cgroup), "cgroupsPath");
}

#[test]
fn each_kind_of_bind_needs_its_source() {
    let mounted = |mount: serde_json::Value| {
        let mut json: serde_json::Value = serde_json::from_slice(&spec(NAMESPACES, ARGS)).unwrap();
        json["mounts"] = serde_json::json!([mount]);
        plan("c1", json.to_string().as_bytes(), &Stdio::new())
    };
    for (typ, options, source, refused) in [
        (Some("bind"), vec![], "/no", true),
        (None, vec!["ro", "bind"], "/no", true),
        (None, vec!["rbind"], "/no", true),
        (Some("bind"), vec!["rbind"], "/etc", false),
        (None, vec!["bind"], "/etc", false),
        (Some("tmpfs"), vec!["ro", "nosuid"], "/no", false),
    ] {
        let mount = serde_json::json!({
            "destination": "/d", "type": typ, "options": options, "source": source,
        });
        assert_eq!(mounted(mount.clone()).is_err(), refused, "{mount}");
    }
    let without = serde_json::json!({ "destination": "/d", "type": "bind" });
    assert!(matches!(mounted(without), Err(Error::NotInGuest { .. })));
}

#[test]
fn namespaces_decide_what_is_private() {
    let sysctl = r#""sysctl":{"net.a":"1","net/b":"2","kernel.msgmax":"9"}"#;
    let planned = |namespaces: &str| {
        let linux = format!(r#","namespaces":[{namespaces}],{sysctl}"#);
        let plan = plan("c1", &spec(&linux, ARGS), &Stdio::new()).unwrap();
        let mut net = plan.net_sysctls;
        net.sort();
        let own = plan.spec.linux().clone().unwrap().sysctl().clone().unwrap();
        (plan.private_pid_namespace, net, own.len())
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let net = vec![pair("net.a", "1"), pair("net/b", "2")];
    let mount = r#"{"type":"mount"}"#;
    assert_eq!(planned(mount), (false, net.clone(), 1));
    let with = |more: &str| planned(&format!("{mount},{more}"));
    assert_eq!(with(r#"{"type":"pid"}"#), (true, net.clone(), 1));
    assert_eq!(with(r#"{"type":"pid","path":""}"#), (true, net.clone(), 1));
    assert_eq!(with(r#"{"type":"pid","path":"/run/pid"}"#), (false, net, 1));
    // A container with a network of its own sets them itself.
    assert_eq!(with(r#"{"type":"network"}"#), (false, vec![], 3));
}

#[test]
fn a_session_inherits_each_setting_that_it_does_not_have() {
    let container = r#","args":["true"],"noNewPrivileges":true,"oomScoreAdj":7,
        "capabilities":{"bounding":["CAP_KILL"]},
        "rlimits":[{"type":"RLIMIT_NOFILE","soft":5,"hard":6}]"#;
    let plan = plan("c1", &spec(NAMESPACES, container), &Stdio::new()).unwrap();
    let launched = |settings: &str| {
        let json = format!(r#"{{"user":{{"uid":1,"gid":2}},"cwd":"/x","args":["id"]{settings}}}"#);
        plan_exec(json.as_bytes(), &Stdio::new(), &plan.inherited).unwrap()
    };
    let settings = |process: &Process| {
        let bounding = process.capabilities().as_ref().unwrap().bounding().clone();
        let soft = process.rlimits().as_ref().map(|limits| limits[0].soft());
        let names = bounding
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        (
            names,
            soft,
            process.no_new_privileges(),
            process.oom_score_adj(),
        )
    };
    let (outer, inherited) = launched(r#","rlimits":[]"#);
    assert_eq!(
        settings(&inherited.process),
        (vec!["KILL".into()], Some(5), Some(true), Some(7))
    );
    // libcontainer has no part in these, nor in the directory.
    assert!(outer.capabilities().is_none() && outer.rlimits().is_none());
    assert_eq!(
        (outer.cwd(), inherited.process.cwd()),
        (&"/".into(), &"/x".into())
    );
    let (_, own) = launched(
        r#","noNewPrivileges":false,"oomScoreAdj":8,"capabilities":{"bounding":["CAP_CHOWN"]},
           "rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}]"#,
    );
    assert_eq!(
        settings(&own.process),
        (vec!["CHOWN".into()], Some(1), Some(false), Some(8))
    );
}
