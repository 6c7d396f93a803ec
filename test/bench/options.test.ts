// What a bench says to an option that it does not know, before it starts anything.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

function bench(script: string, ...given: string[]) {
  const file = join(import.meta.dirname, `${script}.ts`);
  const { status, stdout, stderr } = spawnSync(process.execPath, [file, ...given], { encoding: "utf8" });
  return { status, stdout, stderr };
}

describe.each(["jobs", "schedule"])("bench:%s", (script) => {
  test("tells its options", () => {
    const { status, stdout } = bench(script, "--help");
    expect(status).toBe(0);
    expect(stdout).toContain(`npm run bench:${script} -- `);
  });

  test("refuses an option that it does not know, and says which was meant", () => {
    const { status, stdout, stderr } = bench(script, "--quik");
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toBe(
      `Unknown option '--quik'\nDid you mean --quick? All options: npm run bench:${script} -- --help\n`,
    );
  });

  test("refuses a word, a value that is missing, and one that is no number", () => {
    for (const given of [["quick"], ["--rounds"], ["--rounds", "many"], ["--rounds", "0"]]) {
      const { status, stderr } = bench(script, ...given);
      expect(status).toBe(2);
      expect(stderr.split("\n")).toHaveLength(3);
      expect(stderr).toContain("--help");
    }
  });
});

test("bench:jobs refuses a side that there is not", () => {
  const { status, stderr } = bench("jobs", "--sides", "ours,theirs");
  expect(status).toBe(2);
  expect(stderr).toContain("--sides: there is no theirs\nThere are ours, ");
});
