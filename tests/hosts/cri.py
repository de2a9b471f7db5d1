"""A small client of the container runtime interface: pods, containers, exec, and exec on a terminal.

The messages are compiled from cri.proto when this is imported (python3-grpc-tools).
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import grpc
import websocket

HERE = pathlib.Path(__file__).parent


def messages():
    """The module of cri.proto's messages."""
    folder = tempfile.mkdtemp()
    subprocess.run(["protoc", f"-I{HERE}", f"--python_out={folder}", HERE / "cri.proto"], check=True)
    sys.path.insert(0, folder)
    import cri_pb2
    return cri_pb2


pb = messages()


class Client:
    """A connection to a CRI server."""

    def __init__(self, socket, limit):
        self.channel = grpc.insecure_channel(f"unix://{socket}", options=[("grpc.default_authority", "localhost")])
        self.limit = limit
        self.service = pb.DESCRIPTOR.services_by_name["RuntimeService"]

    def call(self, method, request):
        answer = getattr(pb, self.service.methods_by_name[method].output_type.name)
        stub = self.channel.unary_unary(f"/runtime.v1.RuntimeService/{method}",
                                        request_serializer=lambda message: message.SerializeToString(),
                                        response_deserializer=answer.FromString)
        return stub(request, timeout=self.limit)

    @contextlib.contextmanager
    def pod(self, image, handler, logs):
        """A pod for the time of a `with`."""
        pod = Pod(self, image, handler, logs)
        try:
            yield pod
        finally:
            pod.remove()


class Pod:
    number = 0

    def __init__(self, client, image, handler, logs):
        Pod.number += 1
        self.client, self.image = client, image
        self.logs = pathlib.Path(logs) / str(Pod.number)
        self.logs.mkdir(parents=True)
        self.config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=f"pod-{Pod.number}", uid=f"uid-{Pod.number}", namespace="default"),
            hostname="the-pod", log_directory=str(self.logs), linux=pb.LinuxPodSandboxConfig(cgroup_parent="/doors"))
        request = pb.RunPodSandboxRequest(config=self.config, runtime_handler=handler)
        self.id = client.call("RunPodSandbox", request).pod_sandbox_id

    def start(self, name, script, mounts=()):
        """Starts a container that runs a shell script."""
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=self.image),
            command=["sh", "-c", script], log_path=f"{name}.log",
            mounts=[pb.Mount(host_path=str(host), container_path=inside, readonly=readonly)
                    for host, inside, readonly in mounts])
        request = pb.CreateContainerRequest(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        container = self.client.call("CreateContainer", request).container_id
        self.client.call("StartContainer", pb.ContainerRequest(container_id=container))
        return Container(self.client, container, self.logs / f"{name}.log")

    def remove(self):
        """Stops and removes the pod with its containers."""
        self.client.call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=self.id))
        self.client.call("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=self.id))


class Container:
    def __init__(self, client, container, log):
        self.client, self.id, self.path = client, container, log

    def wait(self):
        """Waits for its end and returns its exit code."""
        deadline = time.monotonic() + self.client.limit
        while time.monotonic() < deadline:
            status = self.client.call("ContainerStatus", pb.ContainerRequest(container_id=self.id)).status
            if status.state == pb.EXITED:
                return status.exit_code
            time.sleep(0.1)
        raise TimeoutError(f"container {self.id} does not end")

    def log(self):
        """Its log: a line is date, stream, `F`, text."""
        return self.path.read_text()

    def exec(self, argv):
        """Runs a command; returns its exit code and output."""
        answer = self.client.call("ExecSync", pb.ExecSyncRequest(container_id=self.id, cmd=argv, timeout=int(self.client.limit)))
        return answer.exit_code, answer.stdout.decode()

    def exec_terminal(self, argv, rows, columns, typed):
        """Runs a command on a terminal, types when its size has arrived, and returns its output and exit code.

        The streams go over a WebSocket (Kubernetes' v4.channel.k8s.io): the first byte of a message is its stream,
        0 stdin, 1 stdout, 3 the exit status, 4 the terminal's size.
        """
        request = pb.ExecRequest(container_id=self.id, cmd=argv, tty=True, stdin=True, stdout=True)
        url = self.client.call("Exec", request).url.replace("http://", "ws://", 1)
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            del os.environ[name]
        stream = websocket.create_connection(url, subprotocols=["v4.channel.k8s.io"], timeout=self.client.limit)
        size = json.dumps({"Width": columns, "Height": rows}).encode()
        stream.send_binary(b"\x04" + size)
        said, end = "", None
        while end is None:
            message = stream.recv()
            message = message if isinstance(message, bytes) else message.encode()
            if not message:
                break
            if message[0] == 1:
                said += message[1:].decode(errors="replace")
                if typed and f"{rows} {columns}" in said:
                    stream.send_binary(b"\x00" + typed.encode())
                    typed = None
            elif message[0] == 3:
                end = json.loads(message[1:])
        stream.close()
        if end is None:
            raise ConnectionError(f"the stream ended without a status after {said!r}")
        causes = (end.get("details") or {}).get("causes") or []
        codes = [int(cause["message"]) for cause in causes if cause["reason"] == "ExitCode"]
        return said, codes[0] if codes else 0 if end["status"] == "Success" else -1
