// The command line as a user types it: what is refused, what is shown, and with which exit code.
import * as fs from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { TEST_TICKET_KEY } from "./support/constants.ts";
import { testDatabase } from "./support/database.ts";
import {
  cleanUp,
  type Ended,
  endProcesses,
  logLines,
  newDirectory,
  PROJECT,
  run,
  runNode,
  runNpmStart,
} from "./support/process.ts";

const database = testDatabase();

/** The settings of a part on the test database. */
function part(login: Parameters<typeof database.url>[0]) {
  return {
    ENVIRONMENT: "development",
    DATABASE_URL: database.url(login),
    TICKET_KEY: TEST_TICKET_KEY.secret.toString("base64"),
    TICKET_KEY_ID: String(TEST_TICKET_KEY.kid),
    HOLDFAST_DIR: newDirectory(),
  };
}

afterEach(endProcesses);
afterAll(cleanUp);

describe("the command line", () => {
  it.each([
    [["start", "--import", "bill.csv"], "--import FILE and --tenant NAME go together."],
    [["start", "--onec"], "Unknown option '--onec'"],
    [["start", "--source", "azure"], "--source NAME goes with --import."],
    [
      ["start", "--import", "a.csv", "--tenant", "T", "--source", ""],
      "--source NAME has 1 to 100 characters.",
    ],
    [["start", "frob"], "What is frob? The command start takes options alone."],
    [["toString"], "There is no command toString."],
    [["frob", "start"], "There is no command frob."],
    [["api", "--once"], "The command api has no option --once."],
    [["start", "--file", "bill.csv"], "The command start has no option --file."],
    [["import", "--file", "bill.csv"], "npm run import wants --file FILE and --tenant NAME."],
  ])("refuses %j with 2", async (args, message) => {
    const nowhere = newDirectory();
    const { code, stdout, stderr } = await runNode(args, { HOLDFAST_DIR: nowhere }).ended;
    expect(stderr).toContain(message);
    expect(stderr).toContain("npm start -- --help");
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(fs.existsSync(nowhere)).toBe(false);
  });

  it("shows its help and its version, and does nothing else", async () => {
    const nowhere = newDirectory();
    const { version } = JSON.parse(fs.readFileSync(join(PROJECT, "package.json"), "utf8"));
    const [help, versionShown] = await Promise.all([
      runNpmStart(["--help"], { HOLDFAST_DIR: nowhere }).ended,
      runNode(["start", "--version"], { HOLDFAST_DIR: nowhere }).ended,
    ]);
    expect(help).toMatchObject({ code: 0, stderr: "" });
    for (const option of [
      "--once",
      "--json",
      "--import FILE --tenant NAME",
      "--no-sample",
      "npm run import",
    ]) {
      expect(help.stdout).toContain(option);
    }
    expect(help.stdout).toMatch(/npm start --silent -- --json .*\n.*npm's own banner/);
    expect(versionShown).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: "" });
    expect(fs.existsSync(nowhere)).toBe(false);
  });

  it("refuses to run everything in production, and names what to run", async () => {
    const { code, stdout, stderr } = await runNode(["start"], {
      HOLDFAST_DIR: newDirectory(),
      ENVIRONMENT: "production",
    }).ended;
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain("ENVIRONMENT");
    for (const command of ["npm run db:migrate", "npm run api", "npm run worker"])
      expect(stderr).toContain(command);
    expect(stderr).not.toMatch(/^ +at /m);
  });

  it("works from a folder whose name has a blank and letters beyond ASCII", async () => {
    const project = join(newDirectory(), "..", "my prøject");
    fs.mkdirSync(project);
    for (const name of ["src", "tasks", "package.json"]) {
      fs.cpSync(join(PROJECT, name), join(project, name), { recursive: true });
    }
    fs.symlinkSync(join(PROJECT, "node_modules"), join(project, "node_modules"));
    const { code, stderr } = await runNode(["start", "--version"], {}, { cwd: project }).ended;
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });
});

describe("npm run import", () => {
  const bill = join(PROJECT, "test/data/focus_small.csv");

  function importing(args: string[], login: Parameters<typeof part>[0] = "holdfast_worker"): Promise<Ended> {
    return runNode(["import", ...args], part(login)).ended;
  }

  it("imports a file for a tenant, from the folder in which the user typed, and says it in one line", async () => {
    const { tenantId, name } = await database.addTenant();
    const folder = fs.mkdtempSync(join(newDirectory(), "..", "user-"));
    fs.copyFileSync(bill, join(folder, "bill.csv"));
    const npm = ["--prefix", PROJECT, "run", "--silent", "import", "--"];
    const settings = part("holdfast_worker");
    const started = run("npm", [...npm, "--file", "bill.csv", "--tenant", name], settings, { cwd: folder });
    const { code, stdout, stderr } = await started.ended;
    expect(code, stderr).toBe(0);
    const rows = fs.readFileSync(bill, "utf8").trim().split("\n").length - 1;
    expect(stdout).toMatch(
      new RegExp(`^Imported ${rows} rows for ${name}, \\d+ of them with a data-quality flag\\.\\n$`),
    );
    expect(logLines(stderr)).toMatchObject([
      { part: "import", msg: "import_started", tenant_id: tenantId },
      { part: "import", msg: "import_published", tenant_id: tenantId, source: "import", rows },
    ]);
  });

  it("prints one JSON document, and keeps another source beside the first", async () => {
    const { name } = await database.addTenant();
    const first = await importing(["--file", bill, "--tenant", name, "--json"]);
    const again = await importing(["--file", bill, "--tenant", name, "--json"]);
    const other = await importing(["--file", bill, "--tenant", name, "--json", "--source", "azure"]);
    const [one, two, three] = [first, again, other].map(({ stdout }) => JSON.parse(stdout));
    const file = "focus_small.csv";
    expect(one).toMatchObject({ tenant: name, source: "import", file, replaced_rows: 0, replaced_files: [] });
    expect(two).toMatchObject({ source: "import", replaced_rows: one.rows, replaced_files: [file] });
    expect(three).toMatchObject({ source: "azure", replaced_rows: 0, replaced_files: [] });
    const { rows } = await database.ops.query(
      "select source, status from ops.imports where tenant = $1 order by started_at",
      [name],
    );
    expect(rows).toEqual([
      { source: "import", status: "SUPERSEDED" },
      { source: "import", status: "PUBLISHED" },
      { source: "azure", status: "PUBLISHED" },
    ]);
  });

  it("refuses a tenant that there is not, and a broken file, in words", async () => {
    const before = await database.ops.query("select tenant from ops.tenants order by 1");
    const stranger = await importing(["--file", bill, "--tenant", "Nobody"]);
    expect(stranger).toMatchObject({ code: 1, stdout: "" });
    expect(stranger.stderr).toMatch(/^tenant_not_found \{"name":"Nobody"\}\n.*ops\.tenant_add/m);
    expect((await database.ops.query("select tenant from ops.tenants order by 1")).rows).toEqual(before.rows);

    const { name } = await database.addTenant();
    const broken = await importing(["--file", join(PROJECT, "package.json"), "--tenant", name]);
    expect(broken).toMatchObject({ code: 1, stdout: "" });
    expect(broken.stderr).toContain("focus_invalid: package.json, line 1");
    const { rows } = await database.ops.query("select status from ops.imports where tenant = $1", [name]);
    expect(rows).toEqual([{ status: "FAILED" }]);
  });

  it.each([
    ["holdfast_admin", /^role_unsafe: The login holdfast_admin is above row security/m],
    ["holdfast_service", /^role_unsafe: This part must connect as holdfast_worker, .*as holdfast_service/m],
  ] as const)("refuses the login %s", async (login, said) => {
    const { name } = await database.addTenant();
    const { code, stdout, stderr } = await importing(["--file", bill, "--tenant", name], login);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(said);
    expect(stderr).not.toMatch(/^ +at /m);
  });

  it("that is told to end leaves nothing to be seen, and word of it", async () => {
    const { name } = await database.addTenant();
    const [header, ...lines] = fs.readFileSync(bill, "utf8").trim().split("\n");
    const long = join(fs.mkdtempSync(join(newDirectory(), "..", "long-")), "long.csv");
    fs.writeFileSync(long, [header, ...Array(2_000).fill(lines.join("\n"))].join("\n"));
    const started = runNode(["import", "--file", long, "--tenant", name], part("holdfast_worker"));
    await started.seen(/import_started/);
    process.kill(started.pid, "SIGTERM");
    const { code, stdout, stderr } = await started.ended;
    expect({ code, stdout }, stderr).toEqual({ code: 130, stdout: "" });
    expect(stderr).toContain("Told to end before the import was done");
    const { rows } = await database.ops.query("select status, error from ops.imports where tenant = $1", [
      name,
    ]);
    expect(rows).toMatchObject([{ status: "FAILED", error: { code: "shutdown" } }]);
  });
});

describe("npm run db:migrate", () => {
  it("refuses a login that is no member of holdfast_owner, and names the one to use", async () => {
    const { code, stderr } = await runNode(["migrate"], part("holdfast_worker")).ended;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^config_invalid: the login of DATABASE_URL may not do this: permission denied/m);
    expect(stderr).toContain("npm run db:migrate wants holdfast_admin");
    expect(stderr).not.toMatch(/^ +at /m);
  });

  it("says where its secrets are at fault with one full stop", async () => {
    const directory = newDirectory();
    fs.mkdirSync(directory);
    fs.writeFileSync(join(directory, "secrets.json"), "{}", { mode: 0o644 });
    const { TICKET_KEY: _, ...settings } = part("holdfast_admin");
    const { code, stderr } = await runNode(["migrate"], { ...settings, HOLDFAST_DIR: directory }).ended;
    expect(code).toBe(1);
    expect(stderr).toContain("HOLDFAST_DIR has no usable secrets");
    expect(stderr).not.toContain("..");
  });
});
