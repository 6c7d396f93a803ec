// What a person sees: the bytes are laid on a small terminal, and its screen is looked at.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { pathToFileURL } from "node:url";
import { describe, expect, it, vi } from "vitest";
import { createLog } from "../src/log.ts";
import { Progress } from "../src/progress.ts";

/** A stream that is a terminal of so many columns, or none; `screen` is what it shows in the end. */
function terminal(columns?: number) {
  const out = new PassThrough({ encoding: "utf8" });
  const stream = Object.assign(out, columns === undefined ? {} : { isTTY: true, columns });
  const progress = new Progress(stream as unknown as NodeJS.WriteStream);
  const text = () => String(out.read() ?? "");
  return { progress, text, screen: () => screenOf(text(), columns ?? 80) };
}

/** The lines of a terminal that wraps, returns and erases a line, which is all that Progress asks of one. */
function screenOf(text: string, columns: number): string[] {
  const lines: string[][] = [[]];
  let at = 0;
  for (const sign of text.replaceAll("\u001b[2K", "\v")) {
    if (sign === "\r") at = 0;
    else if (sign === "\v") lines[lines.length - 1] = [];
    else if (sign === "\n" || at === columns) {
      lines.push([]);
      at = 0;
    }
    if (!"\r\v\n".includes(sign)) {
      lines.at(-1)![at] = sign;
      at += 1;
    }
  }
  return lines.map((line) => line.join(""));
}

describe("on a terminal", () => {
  it("shows a bar that grows, and a plain line when the step is done", () => {
    const { progress, screen } = terminal(80);
    progress.advance("Analyses ended", 0, 4);
    progress.advance("Analyses ended", 1, 4);
    expect(screen()).toEqual([`${"█".repeat(7)}${"░".repeat(23)} Analyses ended: 1 of 4`]);
    progress.advance("Analyses ended", 3, 4);
    expect(screen()).toEqual([`${"█".repeat(22)}${"░".repeat(8)} Analyses ended: 3 of 4`]);
    progress.advance("Analyses ended", 4, 4);
    expect(screen()).toEqual(["Analyses ended: 4 of 4", ""]);
  });

  it("puts log lines and words above the bar, whole", () => {
    const { progress, screen } = terminal(80);
    const log = createLog({ level: "info", destination: progress.log, readable: false });
    progress.advance("Imported", 1, 5);
    log.info({ tenant: "a" }, "first");
    progress.say("PostgreSQL listens.");
    log.warn("second");
    progress.advance("Imported", 2, 5);
    const lines = screen();
    expect(lines).toHaveLength(4);
    expect(JSON.parse(lines[0]!)).toMatchObject({ msg: "first", tenant: "a" });
    expect(lines[1]).toBe("PostgreSQL listens.");
    expect(JSON.parse(lines[2]!)).toMatchObject({ msg: "second" });
    expect(lines[3]).toMatch(/^█{12}░{18} Imported: 2 of 5$/);
  });

  it("takes the bar away before a report", () => {
    const { progress, screen } = terminal(80);
    progress.advance("Imported", 1, 5);
    progress.clear();
    progress.say("tenant  tier");
    expect(screen()).toEqual(["tenant  tier", ""]);
  });

  it("shows a step whose end is not known without an end", () => {
    const { progress, screen } = terminal(80);
    progress.advance("Rows of bill.csv", 2_000);
    progress.advance("Rows of bill.csv", 4_000);
    expect(screen()).toEqual(["Rows of bill.csv: 4000"]);
  });

  it.each([20, 40, 79])(
    "keeps the bar on one line of %i columns, so that it can be taken away",
    (columns) => {
      const { progress, screen } = terminal(columns);
      for (let done = 1; done < 5; done += 1) {
        progress.advance(`Rows of ${"a-long-folder/".repeat(6)}bill.csv`, done, 5);
      }
      progress.say("said");
      progress.clear();
      expect(screen()).toEqual(["said", ""]);
    },
  );

  it("is so on a real one", ({ skip }) => {
    skip(spawnSync("script", ["--version"]).status !== 0, "there is no script(1) here");
    const module = pathToFileURL(join(import.meta.dirname, "../src/progress.ts"));
    const program = `import { Progress } from "${module}"; const p = new Progress();
      p.advance("Step", 1, 2); p.say("said"); p.advance("Step", 2, 2);`;
    const shown = spawnSync(
      "script",
      ["-qec", `"${process.execPath}" --input-type=module -e '${program}'`, "/dev/null"],
      { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
    );
    expect(screenOf(shown.stdout, 80)).toEqual(["said", "Step: 2 of 2", ""]);
  });
});

describe("anywhere else", () => {
  it("says a step once, when it is done, and draws nothing", () => {
    const { progress, text } = terminal();
    progress.advance("Imported", 0, 5);
    progress.advance("Imported", 4, 5);
    progress.clear();
    expect(text()).toBe("");
    progress.advance("Imported", 5, 5);
    progress.say("PostgreSQL listens.");
    progress.log.write('{"msg":"x"}\n');
    progress.clear();
    expect(text()).toBe('Imported: 5 of 5\nPostgreSQL listens.\n{"msg":"x"}\n');
  });

  it("shows that a long step goes on, a line every five seconds", () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    try {
      const { progress, text } = terminal();
      for (let rows = 1_000; rows <= 12_000; rows += 1_000) {
        vi.advanceTimersByTime(1_000);
        progress.advance("Rows of bill.csv", rows);
      }
      expect(text()).toBe("Rows of bill.csv: 5000\nRows of bill.csv: 10000\n");
    } finally {
      vi.useRealTimers();
    }
  });
});
