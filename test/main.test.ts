// The command line as a user types it: what is refused, what is shown, and with which exit code.
import * as fs from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { cleanUp, endProcesses, newDirectory, PROJECT, runNode, runNpmStart } from "./support/process.ts";

afterEach(endProcesses);
afterAll(cleanUp);

describe("the command line", () => {
  it.each([
    [["start", "--import", "bill.csv"], "--import FILE and --tenant NAME go together."],
    [["start", "--onec"], "Unknown option '--onec'"],
    [["start", "now"], "There is no command start now."],
    [["toString"], "There is no command toString."],
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
    for (const option of ["--once", "--json", "--import FILE --tenant NAME", "--no-sample"]) {
      expect(help.stdout).toContain(option);
    }
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
