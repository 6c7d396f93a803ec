// The TCP port of an embedded server: the wanted one, or another that stays the same from start to start.
import * as fs from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { AppError } from "../errors.ts";
import type { Log } from "./host.ts";

const FILE = "postgres.port";

/**
 * The port of last time (see `rememberPort`) if the same one was wanted then, else the wanted one, else any;
 * the first that is free on 127.0.0.1. The log is told when it is not the wanted one.
 */
export async function choosePort(directory: string, wanted: number, log: Log): Promise<number> {
  const last = portOfLastTime(directory, wanted);
  for (const candidate of [last ?? wanted, wanted, 0]) {
    const port = await freePort(candidate);
    if (port === undefined) continue;
    const why = port === last ? "as last time" : "for another program has it";
    if (wanted !== 0 && port !== wanted) log(`PostgreSQL listens on port ${port}, not on ${wanted}, ${why}.`);
    return port;
  }
  throw new AppError("postgres_failed", {
    message: "No port is free on 127.0.0.1",
    hint: "End a program that has many.",
  });
}

/** Keeps the choice for the next start. */
export function rememberPort(directory: string, wanted: number, port: number): void {
  fs.writeFileSync(join(directory, FILE), `${wanted} ${port}\n`);
}

function portOfLastTime(directory: string, wanted: number): number | undefined {
  const path = join(directory, FILE);
  const written = fs.existsSync(path) ? /^(\d+) (\d{1,5})\n$/.exec(fs.readFileSync(path, "utf8")) : null;
  return written !== null && Number(written[1]) === wanted ? Number(written[2]) : undefined;
}

function freePort(port: number): Promise<number | undefined> {
  const { promise, resolve } = Promise.withResolvers<number | undefined>();
  const server = createServer();
  server.once("error", () => resolve(undefined));
  server.listen({ host: "127.0.0.1", port, exclusive: true }, () => {
    const address = server.address();
    server.close(() => resolve(typeof address === "object" ? address?.port : undefined));
  });
  return promise;
}
