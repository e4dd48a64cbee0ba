# One image for every part of a crawl; EXTRAS chooses what it can do (pyproject.toml), so it carries no torch.
FROM python:3.11-slim-bookworm

ARG EXTRAS="crawl,serve"
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

RUN useradd --uid 1000 --create-home tinylm && install -d -o tinylm -g tinylm /data /cluster
WORKDIR /opt/tinylm

# Dependencies change seldom and code often, so they are a layer of their own.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = [name for extra in '$EXTRAS'.split(',') for name in project['optional-dependencies'][extra]]; \
print('hatchling', *project['dependencies'], *extras, sep='\n')" > requirements.txt \
 && pip install --constraint constraints.txt --requirement requirements.txt

COPY . .
RUN pip install --no-deps --no-build-isolation .

USER tinylm
WORKDIR /cluster
VOLUME /data
ENV TINYLM_FRONTIER_DATA=/data
ENTRYPOINT ["tinylm"]
