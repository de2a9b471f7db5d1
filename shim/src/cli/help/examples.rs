//! The examples of each command.

/// Commands and their examples: command lines, and lines that describe the next one.
pub(crate) const EXAMPLES: &[(&str, &str)] = &[
    (
        "",
        "\
Run a command in a VM, from an image or with a directory as its root file system:
rust-kata run --rm -it --image docker.io/library/alpine -- sh
rust-kata run --rm -it --rootfs ./alpine -- sh
Create a pod of two containers that share a network:
rust-kata pod create --name web
rust-kata container create --pod web --name db --rootfs ./db -- /bin/db
rust-kata container create --pod web --name app --requires db --rootfs ./app -- /bin/app
rust-kata pod start web
rust-kata pod ls
rust-kata container exec -it app -- sh
rust-kata pod rm --force web
Leave out `container`, as with podman:
rust-kata ps --all
rust-kata exec app date",
    ),
    (
        "run",
        "\
Run a shell and remove the container afterwards:
rust-kata run --rm -it --image docker.io/library/alpine -- sh
Run a service in the background and restart it when it fails:
rust-kata run -d --name db --restart on-failure:3 -v /srv/db:/data --rootfs ./db -- /bin/db
Add a container with limits to a pod:
rust-kata run -d --pod web --memory 512m --cpus 1.5 --rootfs ./app -- /bin/app",
    ),
    (
        "image pull",
        "\
rust-kata image pull quay.io/org/app:1
rust-kata image pull oci-archive:./app.tar",
    ),
    (
        "image load",
        "\
rust-kata image load --tag app:1 ./app.tar",
    ),
    (
        "image ls",
        "\
rust-kata image ls
rust-kata image ls --format json",
    ),
    ("image inspect", "rust-kata image inspect app:1"),
    ("image history", "rust-kata image history app:1"),
    ("image tag", "rust-kata image tag app:1 app:latest"),
    (
        "image rm",
        "\
rust-kata image rm app:1
Remove the image with its containers and all its names:
rust-kata image rm --force app:1",
    ),
    (
        "image prune",
        "\
rust-kata image prune
Remove all images not used by a container:
rust-kata image prune --all",
    ),
    (
        "volume create",
        "\
rust-kata volume create data
rust-kata run -d --name db -v data:/var/lib/db --image db:1",
    ),
    (
        "volume ls",
        "\
rust-kata volume ls
rust-kata volume ls --format json",
    ),
    ("volume inspect", "rust-kata volume inspect data"),
    ("volume rm", "rust-kata volume rm data"),
    (
        "volume prune",
        "\
Remove all volumes not used by a container:
rust-kata volume prune",
    ),
    (
        "events",
        "\
Show all recorded events:
rust-kata events
Follow containers that end, as JSON:
rust-kata events --follow --filter event=died --format json
Show the events of a container in the last hour:
rust-kata events --since 1h --filter container=db",
    ),
    (
        "check",
        "\
Check whether pods can run on this machine:
rust-kata check
rust-kata check --format json",
    ),
    (
        "completion",
        "\
Load completions into bash:
rust-kata completion bash",
    ),
    (
        "config show",
        "\
rust-kata config show
Use another file:
rust-kata --config ./test.toml config show --format json",
    ),
    (
        "config default",
        "\
Print a file to start with:
rust-kata config default",
    ),
    (
        "pod create",
        "\
rust-kata pod create --name web --label tier=front
Share the pid namespace, and set limits:
rust-kata pod create --name web --share +pid --cpus 2 --memory 1g
Stop the pod with its last container, and put it into a systemd slice:
rust-kata pod create --name job --exit-policy stop --cgroup-parent batch.slice",
    ),
    (
        "pod run",
        "\
Start a pod, then add a container:
rust-kata pod run --name web
rust-kata run -d --pod web --rootfs ./app -- /bin/app",
    ),
    (
        "pod start",
        "\
rust-kata pod start web
rust-kata pod start --all",
    ),
    (
        "pod stop",
        "\
rust-kata pod stop web
Kill at once:
rust-kata pod stop --time 0 web",
    ),
    ("pod restart", "rust-kata pod restart --time 5 web"),
    ("pod pause", "rust-kata pod pause web"),
    ("pod unpause", "rust-kata pod unpause web"),
    ("pod kill", "rust-kata pod kill --signal HUP web"),
    (
        "pod rm",
        "\
rust-kata pod rm web
Also if containers run or files are damaged:
rust-kata pod rm --force web",
    ),
    (
        "pod ls",
        "\
rust-kata pod ls --filter status=running
List the names in a namespace:
rust-kata --namespace k8s.io pod ls --quiet
rust-kata pod ls --format json",
    ),
    ("pod inspect", "rust-kata pod inspect web"),
    (
        "pod stats",
        "\
rust-kata pod stats
rust-kata pod stats --no-stream web
rust-kata pod stats --format json web",
    ),
    ("pod top", "rust-kata pod top web"),
    (
        "pod logs",
        "\
rust-kata pod logs web
Show the last lines of each container, and follow:
rust-kata pod logs --follow --tail 10 --timestamps web",
    ),
    (
        "pod batch",
        "\
Read lines such as `stop app`, `kill=HUP db`, `start`:
rust-kata pod batch web ./changes
Read them from standard input:
rust-kata pod batch web",
    ),
    ("pod sync", "rust-kata pod sync web"),
    (
        "pod events",
        "\
rust-kata pod events web
rust-kata pod events --follow web",
    ),
    (
        "container create",
        "\
rust-kata container create --name db --rootfs ./db -- /bin/db
Create a container in a pod, started after another one:
rust-kata container create --pod web --name app --requires db --rootfs ./app -- /bin/app",
    ),
    ("container init", "rust-kata container init db"),
    (
        "container start",
        "\
rust-kata container start db
Start the container and show all its output:
rust-kata container start --attach db",
    ),
    (
        "container stop",
        "\
rust-kata container stop db app
rust-kata container stop --all
rust-kata container stop --time 30 db",
    ),
    ("container restart", "rust-kata container restart db"),
    ("container pause", "rust-kata container pause db"),
    ("container unpause", "rust-kata container unpause db"),
    (
        "container kill",
        "\
rust-kata container kill --signal HUP db
Kill all running containers:
rust-kata container kill --all
Signal a container of containerd:
rust-kata --namespace k8s.io container kill --signal TERM 0123456789ab",
    ),
    (
        "container attach",
        "\
Detach with Ctrl-P Ctrl-Q:
rust-kata container attach db",
    ),
    (
        "container exec",
        "\
rust-kata container exec -it db sh
Run as another user, with a variable, in a container of containerd:
rust-kata container exec --user postgres --env LANG=C 0123456789ab -- psql -l
Pass a secret on descriptor 3, and write a report to 4:
rust-kata container exec --preserve-fds 2 db -- check 3<secret 4>report",
    ),
    (
        "container wait",
        "\
rust-kata container wait db
Wait until it runs:
rust-kata container wait --condition running db",
    ),
    (
        "container rm",
        "\
rust-kata container rm db
rust-kata container rm --force --time 0 db",
    ),
    (
        "container ls",
        "\
rust-kata container ls --all --filter label=tier=back --filter label=zone
Show the containers whose names begin with db:
rust-kata container ls --filter name=^db
rust-kata container ls --pod web --format json",
    ),
    ("container inspect", "rust-kata container inspect web/db"),
    ("container top", "rust-kata container top db"),
    (
        "container logs",
        "\
rust-kata container logs --tail 20 --timestamps db
rust-kata container logs --follow --since 10m db",
    ),
    (
        "container mount",
        "\
Mount a container and print the path on the host:
rust-kata container mount db
List mounted containers:
rust-kata container mount",
    ),
    (
        "container unmount",
        "\
rust-kata container unmount db
rust-kata container unmount --all --force",
    ),
    (
        "container export",
        "rust-kata container export --output db.tar db",
    ),
    (
        "container cp",
        "\
rust-kata container cp ./app.conf db:/etc/app.conf
rust-kata container cp db:/var/log ./logs
Copy the content of a directory:
rust-kata container cp ./site/. db:/srv/www
Extract an archive from stdin:
rust-kata container cp - db:/srv",
    ),
    (
        "container artifact add",
        "rust-kata container artifact add db notes ./notes.txt",
    ),
    (
        "container artifact get",
        "rust-kata container artifact get db notes",
    ),
    (
        "container artifact ls",
        "rust-kata container artifact ls db",
    ),
    (
        "container artifact rm",
        "rust-kata container artifact rm db notes",
    ),
    ("container cleanup", "rust-kata container cleanup db"),
    (
        "container session ls",
        "\
rust-kata container session ls db
rust-kata container session ls --format json db",
    ),
    (
        "container session inspect",
        "rust-kata container session inspect db 0123456789ab",
    ),
    (
        "container session rm",
        "\
Kill a running session and remove it:
rust-kata container session rm --force db 0123456789ab",
    ),
    (
        "container update",
        "\
rust-kata container update --memory 1g --cpus 2 db
rust-kata container update --pids-limit 100 db",
    ),
];

/// The examples of a command.
pub(crate) fn examples(words: &str) -> Option<&'static str> {
    let found = EXAMPLES.iter().find(|(of, _)| *of == words);
    found.map(|(_, text)| *text)
}
