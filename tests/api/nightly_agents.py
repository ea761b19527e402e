#!/usr/bin/env python3
"""Real coding agents of PyPI, unmodified, do a task through the server over a scripted model: write a file, run its
check, say so. What they send is shown; nothing of it may be refused."""
import http.client
import http.server
import json
import os
import subprocess
import sys
import threading

import server
from server import B, Scripted, check, equal

PACKAGES = ["claude-agent-sdk==0.2.188", "mini-swe-agent==2.4.6", "openai-codex-cli-bin==0.163.0"]
FOLDER = os.path.abspath(os.path.join(B, "agents"))
TASK = "Write add.py with a function add, then run check.py."
FILE = "def add(a, b):\n    return a + b\n"
CHECK = 'import add\nassert add.add(2, 3) == 5\nprint("CHECK", "PASSED")\n'
MARK = "｜DSML｜"


def call(name, **parameters):
    """A tool call as the model writes it."""
    inside = "".join(f'<{MARK}parameter name="{k}" string="true">{v}</{MARK}parameter>\n' for k, v in parameters.items())
    return f'\n\n<{MARK}tool_calls>\n<{MARK}invoke name="{name}">\n{inside}</{MARK}invoke>\n</{MARK}tool_calls>'


def script(write, run, end):
    """The later states first: the text that the state before has put into the conversation chooses the reply."""
    return [{"when": "CHECK PASSED", "reply": "It works.</think>The check passed." + end},
            {"when": "def add(a, b)", "reply": "Now the check.</think>I run the check." + run},
            {"when": "Write add.py", "reply": "A small file.</think>I write the file." + write},
            {"when": "", "reply": "Hm.</think>Ok."}]


class Recorder:
    """A proxy in front of the server that remembers requests."""

    def __init__(self, port):
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def forward(self):
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                c = http.client.HTTPConnection("127.0.0.1", port)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "accept-encoding")}
                c.request(self.command, self.path, data or None, headers)
                r = c.getresponse()
                seen.append((self.command, self.path, dict(self.headers), data, r.status))
                self.send_response(r.status)
                self.send_header("Content-Type", r.headers["Content-Type"] or "text/plain")
                self.end_headers()
                while piece := r.read1(65536):
                    self.wfile.write(piece)

            do_GET = do_POST = do_HEAD = do_OPTIONS = forward

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def show(self):
        for method, path, headers, data, status in self.seen:
            fields = json.loads(data) if data.startswith(b"{") else {}
            print(f"# {method} {path} -> {status}, fields {sorted(fields)}, tools "
                  f"{[t.get('name') or t.get('function', {}).get('name') for t in fields.get('tools') or []]}")
            print("#     headers", {k: v for k, v in sorted(headers.items()) if k.lower() not in ("authorization", "x-api-key")})


def install():
    mark = os.path.join(FOLDER, "installed")
    if os.path.exists(mark) and open(mark).read() == " ".join(PACKAGES):
        return
    out = subprocess.run(f"{sys.executable} -m venv {FOLDER} && {FOLDER}/bin/python -m pip install -q --disable-pip-version-check "
                         + " ".join(PACKAGES), shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if out.returncode != 0:
        print("1..0 # SKIP the agents cannot be installed from PyPI: " + out.stdout.decode().strip().split("\n")[-1])
        sys.exit(0)
    with open(mark, "w") as f:
        f.write(" ".join(PACKAGES))


def agent(name, replies, command, environment):
    """Runs one in a fresh folder; returns what it sent."""
    folder, home = os.path.join(server.work, name), os.path.join(server.work, name + "-home")
    os.makedirs(folder)
    os.makedirs(home)
    with open(os.path.join(folder, "check.py"), "w") as f:
        f.write(CHECK)
    with Scripted(replies(folder), "--context", "400000", tokenizer=server.official_tokenizer()) as s:
        r = Recorder(s.port)
        out = subprocess.run(command, cwd=folder, env={"PATH": os.environ["PATH"], "HOME": home, **environment(r.port)},
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        r.show()
        text = out.stdout.decode()
        equal(out.returncode, 0, f"exit code (output {text[-2000:]})")
        equal(open(os.path.join(folder, "add.py")).read().strip(), FILE.strip(), "the file that it wrote")
        asked = [x for x in r.seen if x[0] == "POST"]
        equal(len(asked) >= 3, True, f"{len(asked)} requests")
        equal([x[4] for x in asked if x[4] != 200], [], "refusals")
        equal(any(b"CHECK PASSED" in x[3] for x in asked), True, "the check's output came back")
        return text


def claude_code():
    """Its task, and before it the search for tools that it keeps out of the prompt."""
    binary = f"{FOLDER}/lib/python3.{sys.version_info[1]}/site-packages/claude_agent_sdk/_bundled/claude"
    search = {"when": "Write add.py", "reply": "First a tool.</think>I search." + call("ToolSearch", query="select:NotebookEdit")}

    def replies(folder):
        states = script(call("Write", file_path=f"{folder}/add.py", content=FILE),
                        call("Bash", command="python3 check.py", description="Run the check"), "")
        states[2]["when"] = "Tool NotebookEdit is loaded."
        return states[:3] + [search] + states[3:]

    text = agent(
        "claude", replies,
        [binary, "-p", TASK, "--output-format", "json", "--permission-mode", "acceptEdits", "--allowedTools", "Bash,Write"],
        lambda port: {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "sk-test",
                      "ANTHROPIC_MODEL": "deepseek-v4-flash", "ANTHROPIC_SMALL_FAST_MODEL": "deepseek-v4-flash",
                      "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"})
    result = json.loads([line for line in text.split("\n") if line.startswith("{")][-1])
    equal((result["subtype"], result["result"], result["num_turns"]), ("success", "The check passed.", 4))


def mini_swe_agent():
    agent(
        "mini",
        lambda folder: script(call("bash", command=f"cat > add.py <<'EOF'\n{FILE}EOF"),
                              call("bash", command="python3 check.py"),
                              call("bash", command="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")),
        [f"{FOLDER}/bin/mini", "--yolo", "--exit-immediately", "--cost-limit", "0", "--model", "openai/deepseek-v4-flash",
         "--task", TASK, "--output", "trajectory.json"],
        lambda port: {"OPENAI_API_BASE": f"http://127.0.0.1:{port}/v1", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
                      "OPENAI_API_KEY": "sk-test", "MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors",
                      "LITELLM_LOCAL_MODEL_COST_MAP": "True"})


def codex():
    """With no file of settings: the provider is named on the command line."""
    def provider(port):
        return {"HADAL_KEY": "sk-test", "HADAL_PORT": str(port)}

    binary = f"{FOLDER}/lib/python3.{sys.version_info[1]}/site-packages/codex_cli_bin/bin/codex"
    settings = ('-c model_provider=hadal -c model_providers.hadal.name=hadal -c model_providers.hadal.wire_api=responses '
                '-c model_providers.hadal.env_key=HADAL_KEY -c model_providers.hadal.base_url=http://127.0.0.1:$HADAL_PORT/v1')
    text = agent(
        "codex",
        lambda folder: script(call("exec_command", cmd=f"cat > add.py <<'EOF'\n{FILE}EOF"),
                              call("exec_command", cmd="python3 check.py"), ""),
        ["sh", "-c", f'mkdir -p "$HOME/.codex" && exec {binary} exec --skip-git-repo-check '
                     f'--dangerously-bypass-approvals-and-sandbox -m deepseek-v4-flash {settings} "$0"', TASK],
        provider)
    equal("The check passed." in text, True, f"the answer is shown (output {text[-1000:]})")


install()
check("Claude Code writes a file and runs its check", claude_code)
check("Codex writes a file and runs its check", codex)
check("mini-swe-agent writes a file and runs its check", mini_swe_agent)
server.done()
