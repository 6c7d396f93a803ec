// An embedded PostgreSQL on a folder: made where there is none, reused while it runs, stopped when we say so.
import * as fs from "node:fs";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "./errors.ts";
import { embeddedPackage, type Log, runnableBinaries, serverAccount } from "./postgres/host.ts";
import { lockDirectory } from "./postgres/lock.ts";
import { holdsCluster, placeFor } from "./postgres/place.ts";
import { choosePort, rememberPort } from "./postgres/port.ts";
import {
  awaitRunning,
  clearStalePid,
  endPostmaster,
  type Postmaster,
  type Superuser,
  superuserOf,
} from "./postgres/postmaster.ts";
import { type Cluster, createCluster, launch } from "./postgres/programs.ts";

const LAUNCHES = 4;

/** Failures that pass: another program was quicker on the port, or a killed server's rest still ends. */
const PASSING =
  /could not create any TCP\/IP sockets|pre-existing shared memory block|lock file .* already exists/;

/** A running server. */
export type EmbeddedServer = {
  /** pg ClientConfig, over the Unix socket; it works for the server's own user and root alone. */
  superuser: Superuser;
  host: "127.0.0.1";
  /** TCP; every login but the superuser, with its password. */
  port: number;
  dataDirectory: string;
  /** It ran already, left by a process that was killed. */
  reused: boolean;
  /**
   * Ends all sessions, writes a checkpoint, and resolves when the server is gone and the folder free. Every
   * call after the first gives the same promise. Throws `postgres_failed` when the server does not end.
   */
  stop(): Promise<void>;
};

/** Where the server lives, and how it is started. */
export type PostgresOptions = {
  /** Made when it is not there: `data`, `run`, `postgres.log`, `postgres.port`, `holdfast.pid.<n>`. */
  directory: string;
  /** The wanted TCP port; when another program has it, a free one is taken. 0: any. */
  port: number;
  /** Further settings, for the server that is started now; one that still runs keeps its own. */
  settings?: Record<string, string>;
  log?: Log;
  /** Gives up the start: what was begun is ended. */
  signal?: AbortSignal;
  /** The folder of the npm package with the binaries; without it, the one for this machine. */
  packageFolder?: string;
};

/**
 * Starts the server of a folder, or takes over the one that a killed process left there. Nothing stops it but
 * `stop()`: no signal from the terminal reaches it. Throws `already_running`, `data_directory_version`,
 * `config_invalid` (the folder holds something else), `postgres_unsupported` (this machine cannot run it) and
 * `postgres_failed`.
 */
export async function startPostgres(options: PostgresOptions): Promise<EmbeddedServer> {
  try {
    const packageFolder = options.packageFolder ?? embeddedPackage();
    fs.mkdirSync(dirname(resolve(options.directory)), { recursive: true });
    fs.mkdirSync(options.directory, { recursive: true, mode: 0o700 });
    return await startLocked(fs.realpathSync(options.directory), packageFolder, options);
  } catch (error) {
    throw explained(error, options.directory);
  }
}

async function startLocked(
  directory: string,
  packageFolder: string,
  options: PostgresOptions,
): Promise<EmbeddedServer> {
  const { port, settings = {}, log = () => {}, signal } = options;
  const release = lockDirectory(directory);
  try {
    const account = serverAccount(join(directory, "data"));
    const binaries = runnableBinaries(packageFolder, account, log);
    const place = placeFor(directory, account, log);
    const cluster = { ...place, directory, account, binaries, settings, signal };
    if (!holdsCluster(place.data, binaries.major, account)) await createCluster(cluster);
    return serverOf(await run(cluster, port, log), place.data, release);
  } catch (error) {
    release();
    throw error;
  }
}

type Running = { postmaster: Postmaster; reused: boolean };

function serverOf(
  { postmaster, reused }: Running,
  dataDirectory: string,
  release: () => void,
): EmbeddedServer {
  let stopping: Promise<void> | undefined;
  const stop = () => {
    stopping ??= endPostmaster(postmaster).finally(release);
    return stopping;
  };
  return {
    superuser: superuserOf(postmaster),
    host: "127.0.0.1",
    port: postmaster.port,
    dataDirectory,
    reused,
    stop,
  };
}

async function run(cluster: Cluster, wanted: number, log: Log): Promise<Running> {
  const { data, directory, signal } = cluster;
  for (let launches = 1; ; launches += 1) {
    const found = await awaitRunning(data, signal);
    if (found !== undefined) {
      log(
        `PostgreSQL still runs on ${data} (process ${found.pid}, port ${found.port}); it is used as it is.`,
      );
      return { postmaster: found, reused: true };
    }
    clearStalePid(data);
    const port = await choosePort(directory, wanted, log);
    try {
      const postmaster = await launch(cluster, port);
      rememberPort(directory, wanted, port);
      return { postmaster, reused: false };
    } catch (error) {
      if (launches === LAUNCHES || !(error instanceof Error && PASSING.test(error.message))) throw error;
      await sleep(launches * 250, undefined, { signal });
    }
  }
}

/** A refusal of the system, such as EACCES, says what it was about and what helps. */
function explained(error: unknown, directory: string): unknown {
  if (error instanceof AppError || !(error instanceof Error) || !("syscall" in error)) return error;
  return new AppError("postgres_failed", {
    message: `The embedded PostgreSQL cannot use ${directory}: ${error.message}`,
    hint: "Set HOLDFAST_DIR to a folder that you may write in, or DATABASE_URL to a server of your own.",
    detail: { directory },
    cause: error,
  });
}
