# One image for every part of a crawl; EXTRAS chooses what it can do (pyproject.toml), so it carries no torch.
FROM python:3.11-slim-bookworm

ARG EXTRAS="crawl,karma,serve"
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

RUN useradd --uid 1000 --create-home tinylm && install -d -o tinylm -g tinylm /data /cluster
WORKDIR /opt/tinylm

# Dependencies change seldom and code often, so they are a layer of their own, without what only their
# developers use and the parts of Arrow that nothing here loads. Their .pyc stay: a read-only container could not
# write them, and would compile at every start.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = [name for extra in '$EXTRAS'.split(',') for name in project['optional-dependencies'][extra]]; \
print('hatchling', *project['dependencies'], *extras, sep='\n')" > requirements.txt \
 && pip install --constraint constraints.txt --requirement requirements.txt \
 && cd "$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))")" \
 && find . -type d \( -name test -o -name tests \) -prune -exec rm -r {} + \
 && rm -rf pyarrow/include pyarrow/src pyarrow/*flight* pyarrow/*s3*

COPY . .
RUN pip install --no-deps --no-build-isolation .

USER 1000:1000
WORKDIR /cluster
ENV TINYLM_FRONTIER_DATA=/data TINYLM_HEARTBEAT=/tmp/heartbeat
ENTRYPOINT ["tinylm"]
