-- What a detector answers: one row a finding, worded by SQL, with {{slots}} for its numbers.
do $$
begin
  if pg_catalog.to_regtype('app_private.detected') is null then
    create type app_private.detected as (
      detector         text,
      detector_version integer,
      fingerprint      text,
      scope            jsonb,
      severity         text,
      currency         text,
      amount           numeric,
      monthly_saving   numeric,
      saving_basis     text,
      confidence       text,
      evidence         jsonb,
      slots            jsonb,
      headline         text,
      why              text,
      remediation_code text
    );
  end if;
end
$$;

comment on type app_private.detected is
  'A finding as a detector gives it; amount is the money it is about, which ranks findings that have no saving.';
