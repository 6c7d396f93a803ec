-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_settle') is null then
    create type app_private.llm_settle as (
      n                   integer,
      reservation_id      uuid,
      final               boolean,
      used                app_private.llm_units,
      source              text,
      provider_request_id text,
      response_model      text,
      finish_reason       text,
      simulated           boolean,
      of_client           boolean,
      writes              boolean,
      run_id              uuid,
      provider            text,
      model               text,
      hold_nanousd        bigint,
      closed              boolean,
      before_nanousd      bigint,
      status              text,
      cost_nanousd        numeric,
      over_hold_nanousd   numeric,
      refusal             text,
      detail              jsonb
    );
  end if;
end
$$;

comment on type app_private.llm_settle is

  'What a call has used, as app.llm_settle_many works on it, its hold as it was found (closed: it had ended, with '
  'before_nanousd settled), and what became of it.';
